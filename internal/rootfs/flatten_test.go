package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/layer"
)

type flattenCase struct {
	name   string
	layers [][]member
	want   string // as describe writes it
}

func runFlatten(t *testing.T, cases []flattenCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tree, err := Flatten(context.Background(), stack(c.layers...))
			if err != nil {
				t.Fatalf("Flatten failed: %v", err)
			}
			if diff := diffLines(describe(t, tree), wantLines(c.want)); diff != "" {
				t.Errorf("the merged tree is wrong:\n%s", diff)
			}
			checkInvariants(t, tree)
		})
	}
}

func TestFlattenWhiteouts(t *testing.T) {
	runFlatten(t, []flattenCase{
		{
			"removes a file of a lower layer",
			[][]member{{file("a", "1"), file("b", "2")}, {gone(".wh.a")}},
			`/b f 0644 0:0 1 2`,
		},
		{
			"removes a directory with all it has",
			[][]member{{dir("d"), dir("d/e"), file("d/e/f", "1"), file("g", "2")}, {gone(".wh.d")}},
			`/g f 0644 0:0 1 2`,
		},
		{
			"before a new file of the same name keeps the new one",
			[][]member{{file("a", "old")}, {gone(".wh.a"), file("a", "new")}},
			`/a f 0644 0:0 1 new`,
		},
		{
			"after a new file of the same name keeps the new one",
			[][]member{{file("a", "old")}, {file("a", "new"), gone(".wh.a")}},
			`/a f 0644 0:0 1 new`,
		},
		{
			"with a new directory of the same name drops what the old one had",
			[][]member{
				{dir("d"), file("d/old", "1")},
				{dir("d").mode(0o700), file("d/new", "2"), gone(".wh.d")},
			},
			`/d d 0700 0:0
			 /d/new f 0644 0:0 1 2`,
		},
		{
			"acts on lower layers only, even without a lower file",
			[][]member{{file("a", "1"), gone(".wh.a")}},
			`/a f 0644 0:0 1 1`,
		},
		{
			"of what does not exist does nothing and makes no directory",
			[][]member{{file("a", "1")}, {gone(".wh.b"), gone("no/.wh.such"), gone("a/.wh.x"), gone("no/.wh..wh..opq")}},
			`/a f 0644 0:0 1 1`,
		},
		{
			"two of which the second is inside the first",
			[][]member{
				{file("d/x", "1"), hardlink("keep", "d/x")},
				{gone(".wh.d"), gone("d/.wh.x"), gone("d/.wh..wh..opq")},
			},
			`/keep f 0644 0:0 1 1`,
		},
		{
			"as an entry of any type",
			[][]member{
				{file("a", ""), file("b", ""), file("c", ""), file("d", ""), file("e", ""), file("f", ""), file("g", "1")},
				{
					dir(".wh.a/"), symlink(".wh.b", "x"), hardlink(".wh.c", ".wh.d"), gone(".wh.d"),
					device(".wh.e", layer.CharDevice, 0, 0), fifo(".wh.f"),
				},
			},
			`/g f 0644 0:0 1 1`,
		},
		{
			"is itself no file, nor is what a whiteout directory has",
			[][]member{{dir(".wh.a"), file(".wh.a/b", "1"), file("c", "2")}},
			`/c f 0644 0:0 1 2`,
		},
		{
			"names of AUFS mean nothing",
			[][]member{
				{file("a", "1")},
				{
					dir(".wh..wh.plnk"), file(".wh..wh.plnk/12.34", "2"), gone(".wh..wh.aufs"), dir(".wh..wh.orph"),
					file("d/.wh..wh.aufs", "3"),
				},
			},
			`/a f 0644 0:0 1 1`,
		},
		{
			"opaque: the directory's own layer keeps its files, whatever the order",
			[][]member{
				{dir("d"), file("d/old", "1"), dir("d/e"), file("d/e/old", "2")},
				{dir("d"), file("d/before", "3"), gone("d/.wh..wh..opq"), file("d/later", "4"), file("d/e/new", "5")},
			},
			`/d d 0755 0:0
			 /d/before f 0644 0:0 1 3
			 /d/e d 0755 0:0
			 /d/e/new f 0644 0:0 1 5
			 /d/later f 0644 0:0 1 4`,
		},
		{
			"opaque without an entry for the directory keeps the directory's attributes",
			[][]member{{dir("d").mode(0o1777).owner(1, 2), file("d/old", "1")}, {gone("d/.wh..wh..opq")}},
			`/d d 1777 1:2`,
		},
		{
			"opaque at the root",
			[][]member{{dir("/").mode(0o711), dir("d"), file("d/old", "1")}, {file("new", "2"), gone(".wh..wh..opq")}},
			`/ d 0711 0:0
			 /new f 0644 0:0 1 2`,
		},
		{
			"through a symlink to a directory acts on the directory",
			[][]member{
				{dir("usr/lib"), file("usr/lib/x", "1"), file("usr/lib/y", "2"), symlink("lib", "usr/lib")},
				{gone("lib/.wh.x")},
			},
			`/lib l 0777 0:0 1 -> usr/lib
			 /usr d 0755 0:0
			 /usr/lib d 0755 0:0
			 /usr/lib/y f 0644 0:0 1 2`,
		},
		{
			"opaque through an absolute symlink stays inside the root",
			[][]member{
				{dir("tmp"), file("tmp/x", "1"), symlink("lib", "/../../tmp")},
				{gone("lib/.wh..wh..opq"), file("lib/y", "2")},
			},
			`/lib l 0777 0:0 1 -> /../../tmp
			 /tmp d 0755 0:0
			 /tmp/y f 0644 0:0 1 2`,
		},
		{
			"below a symlink that the layer replaces by a directory does not follow the link",
			[][]member{
				{file("usr/lib/x", "1"), symlink("lib", "usr/lib")},
				{gone("lib/.wh.x"), gone("lib/.wh..wh..opq"), dir("lib"), file("lib/y", "2")},
			},
			`/lib d 0755 0:0
			 /lib/y f 0644 0:0 1 2
			 /usr d 0755 0:0
			 /usr/lib d 0755 0:0
			 /usr/lib/x f 0644 0:0 1 1`,
		},
		{
			"below a symlink that the layer removes does not follow the link",
			[][]member{
				{file("usr/lib/x", "1"), symlink("lib", "usr/lib")},
				{gone("lib/.wh.x"), gone(".wh.lib")},
			},
			`/usr d 0755 0:0
			 /usr/lib d 0755 0:0
			 /usr/lib/x f 0644 0:0 1 1`,
		},
		{
			"below a symlink does not follow the link when the layer empties its directory",
			[][]member{
				{dir("target"), file("target/x", "1"), dir("p"), symlink("p/a", "/target")},
				{gone("p/.wh..wh..opq"), gone("p/a/.wh.x"), file("p/a/y", "2")},
			},
			`/p d 0755 0:0
			 /p/a d 0755 0:0
			 /p/a/y f 0644 0:0 1 2
			 /target d 0755 0:0
			 /target/x f 0644 0:0 1 1`,
		},
		{
			"below a symlink does not follow the link when the layer removes its directory",
			[][]member{
				{dir("target"), file("target/x", "1"), dir("p"), symlink("p/a", "/target")},
				{gone(".wh.p"), gone("p/a/.wh.x"), file("p/a/y", "2")},
			},
			`/p d 0755 0:0
			 /p/a d 0755 0:0
			 /p/a/y f 0644 0:0 1 2
			 /target d 0755 0:0
			 /target/x f 0644 0:0 1 1`,
		},
		{
			"below a symlink below one that the layer only states again follows both links",
			[][]member{
				{file("t/x", "1"), dir("usr"), symlink("usr/a", "/t"), symlink("lib", "usr")},
				{symlink("lib", "usr"), gone("lib/a/.wh.x")},
			},
			`/lib l 0777 0:0 1 -> usr
			 /t d 0755 0:0
			 /usr d 0755 0:0
			 /usr/a l 0777 0:0 1 -> /t`,
		},
		{
			"below a symlink that the layer only states again follows the link",
			[][]member{
				{file("usr/lib/x", "1"), symlink("lib", "usr/lib")},
				{symlink("lib", "usr/lib"), gone("lib/.wh.x")},
			},
			`/lib l 0777 0:0 1 -> usr/lib
			 /usr d 0755 0:0
			 /usr/lib d 0755 0:0`,
		},
		{
			"of a symlink removes the link and not its target",
			[][]member{{file("t", "1"), symlink("l", "t")}, {gone(".wh.l")}},
			`/t f 0644 0:0 1 1`,
		},
		{
			"by a name with .. and with an absolute name",
			[][]member{{file("a", "1"), file("b", "2"), file("c", "3")}, {gone("../../x/../.wh.a"), gone("/.wh.b")}},
			`/c f 0644 0:0 1 3`,
		},
		{
			"removes a directory and keeps the files' names elsewhere, with the right counts",
			[][]member{
				{file("d/a", "1"), hardlink("d/b", "d/a"), hardlink("e", "d/a"), hardlink("f", "d/a")},
				{gone(".wh.d")},
			},
			`/e f 0644 0:0 2 1
			 /f f 0644 0:0 2 1`,
		},
	})
}

func TestFlattenHardLinks(t *testing.T) {
	runFlatten(t, []flattenCase{
		{
			"outlives the removal of the other name",
			[][]member{{file("a", "1"), hardlink("b", "a")}, {gone(".wh.a")}},
			`/b f 0644 0:0 1 1`,
		},
		{
			"keeps the old content when the other name is replaced",
			[][]member{{file("a", "old"), hardlink("b", "a"), hardlink("c", "b")}, {file("a", "new").mode(0o600)}},
			`/a f 0600 0:0 1 new
			 /b f 0644 0:0 2 old
			 /c f 0644 0:0 2 old`,
		},
		{
			"keeps the file when the other name becomes a directory",
			[][]member{{file("a", "1"), hardlink("b", "a")}, {dir("a"), file("a/x", "2")}},
			`/a d 0755 0:0
			 /a/x f 0644 0:0 1 2
			 /b f 0644 0:0 1 1`,
		},
		{
			"to a file of a lower layer",
			[][]member{{file("a", "1")}, {hardlink("b", "a")}},
			`/a f 0644 0:0 2 1
			 /b f 0644 0:0 2 1`,
		},
		{
			"to a file of a lower layer that the layer replaces later is to the old one",
			[][]member{{file("a", "old")}, {hardlink("b", "a"), file("a", "new")}},
			`/a f 0644 0:0 1 new
			 /b f 0644 0:0 1 old`,
		},
		{
			"to a file that the layer removes below, and makes later, is to the new one",
			[][]member{{file("a", "old")}, {hardlink("b", "a"), gone(".wh.a"), file("a", "new")}},
			`/a f 0644 0:0 2 new
			 /b f 0644 0:0 2 new`,
		},
		{
			"to what comes later",
			[][]member{{hardlink("b", "d/a"), file("d/a", "1")}},
			`/b f 0644 0:0 2 1
			 /d d 0755 0:0
			 /d/a f 0644 0:0 2 1`,
		},
		{
			"to what comes later replaces the lower file of its name",
			[][]member{{file("b", "old"), hardlink("c", "b")}, {hardlink("b", "a"), file("a", "new")}},
			`/a f 0644 0:0 2 new
			 /b f 0644 0:0 2 new
			 /c f 0644 0:0 1 old`,
		},
		{
			"a chain backwards",
			[][]member{{hardlink("d", "c"), hardlink("c", "b"), hardlink("b", "a"), file("a", "1")}},
			`/a f 0644 0:0 4 1
			 /b f 0644 0:0 4 1
			 /c f 0644 0:0 4 1
			 /d f 0644 0:0 4 1`,
		},
		{
			"two to the same that comes later",
			[][]member{{hardlink("c", "a"), hardlink("b", "a"), hardlink("d", "b"), file("a", "1")}},
			`/a f 0644 0:0 4 1
			 /b f 0644 0:0 4 1
			 /c f 0644 0:0 4 1
			 /d f 0644 0:0 4 1`,
		},
		{
			"to what comes later, replaced before the layer ends",
			[][]member{{hardlink("b", "nothing"), file("b", "1")}},
			`/b f 0644 0:0 1 1`,
		},
		{
			"to what comes later, in a directory that is replaced before the layer ends",
			[][]member{{hardlink("d/b", "a"), file("a", "1"), file("d", "2")}},
			`/a f 0644 0:0 1 1
			 /d f 0644 0:0 1 2`,
		},
		{
			"to what comes later, in place of a parent",
			[][]member{{hardlink("d", "a"), file("d/x", "2"), file("a", "1")}},
			`/a f 0644 0:0 1 1
			 /d d 0755 0:0
			 /d/x f 0644 0:0 1 2`,
		},
		{
			"to a symlink is to the link and not to its target",
			[][]member{{file("t", "1"), symlink("l", "t"), hardlink("m", "l")}},
			`/l l 0777 0:0 2 -> t
			 /m l 0777 0:0 2 -> t
			 /t f 0644 0:0 1 1`,
		},
		{
			"to devices and to a FIFO",
			[][]member{{
				device("c", layer.CharDevice, 1, 3), device("b", layer.BlockDevice, 300, 70000), fifo("p"),
				hardlink("c2", "c"), hardlink("b2", "b"), hardlink("p2", "p"),
			}},
			`/b b 0600 0:0 2 300,70000
			 /b2 b 0600 0:0 2 300,70000
			 /c c 0600 0:0 2 1,3
			 /c2 c 0600 0:0 2 1,3
			 /p p 0600 0:0 2
			 /p2 p 0600 0:0 2`,
		},
		{
			"into a directory that has no entry",
			[][]member{{file("a", "1"), hardlink("d/e/b", "a")}},
			`/a f 0644 0:0 2 1
			 /d d 0755 0:0
			 /d/e d 0755 0:0
			 /d/e/b f 0644 0:0 2 1`,
		},
		{
			"through symlinked parents on both sides",
			[][]member{
				{file("usr/lib/a", "1"), symlink("lib", "/usr/lib"), symlink("l", "lib")},
				{hardlink("l/b", "lib/a")},
			},
			`/l l 0777 0:0 1 -> lib
			 /lib l 0777 0:0 1 -> /usr/lib
			 /usr d 0755 0:0
			 /usr/lib d 0755 0:0
			 /usr/lib/a f 0644 0:0 2 1
			 /usr/lib/b f 0644 0:0 2 1`,
		},
		{
			"to itself, which exists",
			[][]member{{file("a", "1")}, {hardlink("a", "./a"), hardlink("a", "a")}},
			`/a f 0644 0:0 1 1`,
		},
		{
			"names its target in all the ways of a tar",
			[][]member{{file("d/a", "1"), hardlink("b", "/d/a"), hardlink("c", "./d//a"), hardlink("e", "../d/../d/a")}},
			`/b f 0644 0:0 4 1
			 /c f 0644 0:0 4 1
			 /d d 0755 0:0
			 /d/a f 0644 0:0 4 1
			 /e f 0644 0:0 4 1`,
		},
		{
			"replaces a directory that has its target",
			[][]member{{file("d/a", "1"), file("d/b", "2")}, {hardlink("d", "d/a")}},
			`/d f 0644 0:0 1 1`,
		},
		{
			"replaces a file, whose other names count one less",
			[][]member{{file("a", "1"), file("b", "2"), hardlink("c", "b")}, {hardlink("b", "a")}},
			`/a f 0644 0:0 2 1
			 /b f 0644 0:0 2 1
			 /c f 0644 0:0 1 2`,
		},
		{
			"and its target removed above, two layers apart",
			[][]member{{file("a", "1")}, {hardlink("b", "a")}, {gone(".wh.a")}, {hardlink("c", "b")}, {file("b", "2")}},
			`/b f 0644 0:0 1 2
			 /c f 0644 0:0 1 1`,
		},
	})
}

func TestFlattenReplacement(t *testing.T) {
	runFlatten(t, []flattenCase{
		{
			"a directory over a directory replaces the attributes and keeps the children",
			[][]member{
				{dir("d").mode(0o700).owner(1, 2).at(5).xattr("user.old", "1"), file("d/a", "1")},
				{dir("d").mode(0o2755).owner(3, 4).at(6).xattr("user.new", "2"), file("d/b", "2")},
			},
			`/d d 2755 3:4 @6 {user.new=2}
			 /d/a f 0644 0:0 1 1
			 /d/b f 0644 0:0 1 2`,
		},
		{
			"a file over a file takes nothing over",
			[][]member{{file("a", "1").mode(0o4755).owner(1, 2).xattr("user.x", "1")}, {file("a", "2")}},
			`/a f 0644 0:0 1 2`,
		},
		{
			"a file over a directory, in the next layer and in the same",
			[][]member{{dir("d"), file("d/a", "1"), dir("e"), file("e/a", "2"), file("e", "3")}, {file("d", "4")}},
			`/d f 0644 0:0 1 4
			 /e f 0644 0:0 1 3`,
		},
		{
			"a directory over a file",
			[][]member{{file("d", "1")}, {dir("d"), file("d/a", "2")}},
			`/d d 0755 0:0
			 /d/a f 0644 0:0 1 2`,
		},
		{
			"a symlink over a directory",
			[][]member{{file("d/a", "1"), file("e/a", "2")}, {symlink("d", "e"), file("d/b", "3")}},
			`/d l 0777 0:0 1 -> e
			 /e d 0755 0:0
			 /e/a f 0644 0:0 1 2
			 /e/b f 0644 0:0 1 3`,
		},
		{
			"a directory over a symlink to a directory replaces the link",
			[][]member{
				{file("usr/lib/a", "1"), symlink("lib", "usr/lib")},
				{dir("lib/").mode(0o700), file("lib/b", "2")},
			},
			`/lib d 0700 0:0
			 /lib/b f 0644 0:0 1 2
			 /usr d 0755 0:0
			 /usr/lib d 0755 0:0
			 /usr/lib/a f 0644 0:0 1 1`,
		},
		{
			"a file over a symlink replaces the link and not its target",
			[][]member{{file("t", "1"), symlink("l", "t")}, {file("l", "2")}},
			`/l f 0644 0:0 1 2
			 /t f 0644 0:0 1 1`,
		},
		{
			"a symlink over a symlink",
			[][]member{{symlink("l", "a")}, {symlink("l", "b").owner(7, 8)}},
			`/l l 0777 7:8 1 -> b`,
		},
		{
			"a device and a FIFO over files, a file over a device",
			[][]member{
				{file("a", "1"), file("b", "2"), device("c", layer.CharDevice, 1, 3)},
				{device("a", layer.BlockDevice, 8, 0), fifo("b"), file("c", "3")},
			},
			`/a b 0600 0:0 1 8,0
			 /b p 0600 0:0 1
			 /c f 0644 0:0 1 3`,
		},
		{
			"of two entries with one name in a layer, the last wins",
			[][]member{{file("a", "1"), file("./a", "2"), dir("d"), dir("d/").mode(0o711), symlink("l", "1"), symlink("l", "2")}},
			`/a f 0644 0:0 1 2
			 /d d 0711 0:0
			 /l l 0777 0:0 1 -> 2`,
		},
		{
			"a duplicate leaves the other name of the first",
			[][]member{{file("a", "1"), hardlink("b", "a"), file("a", "2")}},
			`/a f 0644 0:0 1 2
			 /b f 0644 0:0 1 1`,
		},
	})
}

func TestFlattenParents(t *testing.T) {
	runFlatten(t, []flattenCase{
		{
			"that no entry describes are 0755 root",
			[][]member{{file("a/b/c", "1")}},
			`/a d 0755 0:0
			 /a/b d 0755 0:0
			 /a/b/c f 0644 0:0 1 1`,
		},
		{
			"of a lower layer keep their attributes",
			[][]member{
				{dir("tmp").mode(0o1777).owner(1, 2).at(5).xattr("user.x", "1")},
				{file("tmp/a", "1")},
			},
			`/tmp d 1777 1:2 @5 {user.x=1}
			 /tmp/a f 0644 0:0 1 1`,
		},
		{
			"described after what is in them",
			[][]member{{file("a/b", "1"), dir("a").mode(0o700)}},
			`/a d 0700 0:0
			 /a/b f 0644 0:0 1 1`,
		},
		{
			"that are symlinks are followed",
			[][]member{{dir("usr/lib").mode(0o711), symlink("lib", "usr/lib")}, {file("lib/x", "1"), dir("lib/d"), file("lib/d/y", "2")}},
			`/lib l 0777 0:0 1 -> usr/lib
			 /usr d 0755 0:0
			 /usr/lib d 0711 0:0
			 /usr/lib/d d 0755 0:0
			 /usr/lib/d/y f 0644 0:0 1 2
			 /usr/lib/x f 0644 0:0 1 1`,
		},
		{
			"that are symlinks, absolute, through other symlinks and ..",
			[][]member{{dir("a/b/c"), symlink("a/up", ".."), symlink("l", "/a/b/../up/a/b/c"), symlink("m", "../../l/.")}, {file("m/x", "1")}},
			`/a d 0755 0:0
			 /a/b d 0755 0:0
			 /a/b/c d 0755 0:0
			 /a/b/c/x f 0644 0:0 1 1
			 /a/up l 0777 0:0 1 -> ..
			 /l l 0777 0:0 1 -> /a/b/../up/a/b/c
			 /m l 0777 0:0 1 -> ../../l/.`,
		},
		{
			"that are dangling symlinks are made where they lead",
			[][]member{{symlink("etc/x", "/var/./x/y")}, {file("etc/x/f", "1")}},
			`/etc d 0755 0:0
			 /etc/x l 0777 0:0 1 -> /var/./x/y
			 /var d 0755 0:0
			 /var/x d 0755 0:0
			 /var/x/y d 0755 0:0
			 /var/x/y/f f 0644 0:0 1 1`,
		},
		{
			"that are files become directories",
			[][]member{{file("f", "1"), hardlink("g", "f")}, {file("f/x", "2")}},
			`/f d 0755 0:0
			 /f/x f 0644 0:0 1 2
			 /g f 0644 0:0 1 1`,
		},
		{
			"that are symlinks to files become directories",
			[][]member{{file("f", "1"), symlink("l", "f"), symlink("m", "f/x")}, {file("l/x", "2"), file("m/y", "3")}},
			`/f f 0644 0:0 1 1
			 /l d 0755 0:0
			 /l/x f 0644 0:0 1 2
			 /m d 0755 0:0
			 /m/y f 0644 0:0 1 3`,
		},
		{
			"above the root, and absolute, are confined",
			[][]member{{file("../../a", "1"), file("/b", "2"), file("c/../../../d", "3"), dir(".."), file("//e//./f", "4")}},
			`/a f 0644 0:0 1 1
			 /b f 0644 0:0 1 2
			 /d f 0644 0:0 1 3
			 /e d 0755 0:0
			 /e/f f 0644 0:0 1 4`,
		},
		{
			"that escape by a symlink are confined",
			[][]member{{symlink("etc", "/tmp/x"), symlink("up", "../../..")}, {file("etc/passwd", "1"), file("up/up/a", "2"), gone("up/etc/.wh.b")}},
			`/a f 0644 0:0 1 2
			 /etc l 0777 0:0 1 -> /tmp/x
			 /tmp d 0755 0:0
			 /tmp/x d 0755 0:0
			 /tmp/x/passwd f 0644 0:0 1 1
			 /up l 0777 0:0 1 -> ../../..`,
		},
	})
}

func TestFlattenAttributes(t *testing.T) {
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	runFlatten(t, []flattenCase{
		{
			"of the root, by each of its names",
			[][]member{{dir("./").mode(0o700)}, {dir("/").mode(0o711).owner(1, 2)}, {dir(".").mode(0o1755).at(9).xattr("user.a", "b")}},
			`/ d 1755 0:0 @9 {user.a=b}`,
		},
		{
			"of 32 bits, all mode bits and no others, times before 1970",
			[][]member{{file("a", "").mode(0o7777).owner(1<<32-1, 1<<31).at(-1), file("b", "").mode(0o107755).at(1 << 34)}},
			`/a f 7777 4294967295:2147483648 1  @-1
			 /b f 7755 0:0 1  @17179869184`,
		},
		{
			"extended ones with any bytes, on files, directories and links",
			[][]member{{
				file("a", "1").xattr("security.capability", capability).xattr("user.empty", "").xattr("user.a=b\xff", "="),
				symlink("l", "a").xattr("trusted.x", "1"),
			}},
			"/a f 0644 0:0 1 1 {security.capability=" + capability + "} {user.empty=} {user.a=b\xff==}\n" +
				"/l l 0777 0:0 1 -> a {trusted.x=1}",
		},
		{
			"of a hard link are its target's",
			[][]member{{file("a", "1").mode(0o600).owner(1, 2), hardlink("b", "a").mode(0o777).owner(3, 4).xattr("user.x", "1")}},
			`/a f 0600 1:2 2 1
			 /b f 0600 1:2 2 1`,
		},
		{
			"of a symlink have the mode 0777",
			[][]member{{symlink("l", "a").mode(0o600)}},
			`/l l 0777 0:0 1 -> a`,
		},
		{
			"names of any bytes, of 255, and targets of 4095",
			[][]member{{
				file("\xff\xfe\t", "1"), file("é", "2"), file("e\u0301", "3"), file("A", "4"), file("a", "5"),
				file(strings.Repeat("n", 255), "6"), symlink("l", strings.Repeat("t", 4095)),
			}},
			"/A f 0644 0:0 1 4\n/a f 0644 0:0 1 5\n/e\u0301 f 0644 0:0 1 3\n" +
				"/l l 0777 0:0 1 -> " + strings.Repeat("t", 4095) + "\n" +
				"/" + strings.Repeat("n", 255) + " f 0644 0:0 1 6\n/é f 0644 0:0 1 2\n/\xff\xfe\t f 0644 0:0 1 1",
		},
	})
}

// A name of 255 bytes can be removed, although the whiteout's own name is longer than any directory takes.
func TestFlattenLongWhiteout(t *testing.T) {
	long := strings.Repeat("n", 255)
	tree, err := Flatten(context.Background(), stack([]member{file(long, "1")}, []member{gone(".wh." + long)}))
	if err != nil || len(tree.Root.Children) != 0 {
		t.Errorf("Flatten gave %v and error %v, want an empty root", tree.Root.Children, err)
	}
}

func TestFlattenKeepsNanosecondsAndHoles(t *testing.T) {
	m := file("a", "xyz")
	m.MTime = time.Unix(-2, 999999999).UTC()
	m.Size = 10
	m.Extents = []layer.Extent{{Logical: 4, Offset: 0, Length: 2}, {Logical: 8, Offset: 2, Length: 1}}
	l := layerOf("0", m)
	tree, err := Flatten(context.Background(), []*layer.Layer{l})
	if err != nil {
		t.Fatal(err)
	}
	n := tree.Root.Children["a"]
	if !n.MTime.Equal(m.MTime) {
		t.Errorf("the time is %v, want %v", n.MTime, m.MTime)
	}
	if n.Size != 10 || len(n.Extents) != 2 || n.Extents[1] != m.Extents[1] || n.Source != l.Blob {
		t.Errorf("the node is %+v, want the entry's size, extents and blob", n)
	}
	if want := "/a f 0644 0:0 1 ....xy..z. @-2"; describe(t, tree)[0] != want {
		t.Errorf("got %q, want %q", describe(t, tree)[0], want)
	}
}

func TestFlattenNothing(t *testing.T) {
	tree, err := Flatten(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := newDirectory(); tree.Root.Mode != want.Mode || !tree.Root.MTime.Equal(want.MTime) || len(tree.Root.Children) != 0 {
		t.Errorf("the tree of no layers has the root %+v, want an empty 0755 directory of 1970", tree.Root)
	}
}

func TestFlattenErrors(t *testing.T) {
	loop := []member{symlink("x", "y"), symlink("y", "/x"), file("f", "1"), dir("d")}
	cases := []struct {
		name  string
		upper []member
		want  []string // parts of the message
		is    error
	}{
		{"hard link to nothing", []member{hardlink("b", "no/such")}, []string{`"b"`, `"no/such"`}, fs.ErrNotExist},
		{"hard link to nothing in a file", []member{hardlink("b", "f/x")}, []string{`"b"`, `"f/x"`}, fs.ErrNotExist},
		{"hard link to what is removed", []member{hardlink("b", "f"), gone(".wh.f")}, []string{`"b"`, `"f"`}, fs.ErrNotExist},
		{"hard link to itself, new", []member{hardlink("b", "b")}, []string{`"b"`}, errLinkSelf},
		{"hard links in a circle", []member{hardlink("b", "c"), hardlink("c", "b")}, []string{`"b"`, `"c"`}, errLinkSelf},
		{"hard link to a directory", []member{hardlink("b", "d")}, []string{`"b"`, `"d"`}, errLinkDir},
		{"hard link to a directory that comes later", []member{hardlink("b", "e"), dir("e")}, []string{`"b"`, `"e"`}, errLinkDir},
		{"hard link to the root", []member{hardlink("b", "/")}, []string{`"b"`, `"/"`}, errLinkDir},
		{"hard link to no name", []member{hardlink("b", "")}, []string{`"b"`}, errLinkDir},
		{"hard link through a loop", []member{hardlink("b", "x/z")}, []string{`"b"`, `"x/z"`}, errLoop},
		{"parent is a loop", []member{file("x/z", "1")}, []string{`"x/z"`}, errLoop},
		{"whiteout through a loop", []member{gone("y/.wh.z")}, []string{`"y/.wh.z"`}, errLoop},
		{"whiteout of no name", []member{gone("d/.wh.")}, []string{`"d/.wh."`}, errWhiteoutName},
		{"whiteout of the directory", []member{gone("d/.wh..")}, []string{`"d/.wh.."`}, errWhiteoutName},
		{"whiteout of the parent", []member{gone("d/.wh...")}, []string{`"d/.wh..."`}, errWhiteoutName},
		{"root is a file", []member{file("./", "1")}, []string{`"./"`}, errRootType},
		{"root is a hard link", []member{hardlink(".", "f")}, []string{`"."`}, errRootType},
		{"name of 256 bytes", []member{file(strings.Repeat("n", 256), "1")}, []string{"nnn"}, errNameLong},
		{"parent of 256 bytes", []member{file(strings.Repeat("n", 256)+"/a", "1")}, []string{"nnn"}, errNameLong},
		{"NUL in a name", []member{file("a\x00b", "1")}, []string{`"a\x00b"`}, errNameNUL},
		{"symlink to nothing", []member{symlink("l", "")}, []string{`"l"`}, errTargetEmpty},
		{"symlink of 4096 bytes", []member{symlink("l", strings.Repeat("t", 4096))}, []string{`"l"`}, errTargetLong},
		{"NUL in a target", []member{symlink("l", "a\x00")}, []string{`"l"`}, errTargetNUL},
		{"no type", []member{entry("a", 0, 0)}, []string{`"a"`}, errEntryType},
		{"unknown type", []member{entry("a", 99, 0)}, []string{`"a"`}, errEntryType},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tree, err := Flatten(context.Background(), stack(loop, c.upper))
			if err == nil {
				t.Fatalf("Flatten gave the tree %q, want an error", describe(t, tree))
			}
			if !errors.Is(err, c.is) {
				t.Errorf("the error is %q, want one that wraps %q", err, c.is)
			}
			for _, part := range append(c.want, `"sha256:1"`) {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error is %q, want it to name %s", err, part)
				}
			}
			if fault.KindOf(err) != fault.Unsupported {
				t.Errorf("the error has kind %d, want fault.Unsupported", fault.KindOf(err))
			}
		})
	}
}

// Whole trees of odd shape: none of the functions may recurse along a path or compare every name with every other.
func TestFlattenShapes(t *testing.T) {
	const depth, width = 10_000, 100_000
	deep := strings.Repeat("d/", depth) + "f"
	wide := make([]member, 0, width+1)
	for i := range width {
		wide = append(wide, hardlink(fmt.Sprintf("w/%d", i), fmt.Sprintf("w/%d", i+1)))
	}
	wide = append(wide, file(fmt.Sprintf("w/%d", width), "1"))
	tree, err := Flatten(context.Background(), stack([]member{file(deep, "1"), symlink("l", "d/d/d")}, wide, []member{hardlink("g", deep)}))
	if err != nil {
		t.Fatal(err)
	}
	n, err := tree.Lookup("l/" + deep[len("d/d/d/"):])
	if err != nil || n.Links != 2 {
		t.Errorf("looking up the deep file gave %+v and error %v, want a node with 2 names", n, err)
	}
	if n := tree.Root.Children["w"].Children["7"]; n.Links != width+1 {
		t.Errorf("the chain of hard links has %d names, want %d", n.Links, width+1)
	}
	u := tree.Usage()
	if want := int64(1 + depth + 1 + 1 + 1 + 1); u.Inodes != want {
		t.Errorf("the tree has %d inodes, want %d", u.Inodes, want)
	}
	tree.Root.remove("d")
	if n.Links != 1 {
		t.Errorf("after removing the deep directory the file has %d names, want 1", n.Links)
	}
}

// TestLeftOutDirectories: long paths do not make any number of directories of a small layer, whether they are those of entries or
// of symlinks.
func TestLeftOutDirectories(t *testing.T) {
	const depth = maxLeftOut / 4
	below := func(i int) member { return file(fmt.Sprintf("%d/%sf", i, strings.Repeat("d/", depth)), "") }
	if _, err := Flatten(context.Background(), stack([]member{below(0), below(1)}, []member{below(0), below(2)})); err != nil {
		t.Errorf("fewer directories than there may be: %v", err)
	}
	var links []member
	const inTarget = maxTarget/2 - 10
	for i := range maxLeftOut/inTarget + 1 {
		name := fmt.Sprint("l", i)
		target := fmt.Sprintf("t%d/%s", i, strings.Repeat("d/", inTarget))
		links = append(links, symlink(name, target), file(name+"/f", ""))
	}
	for name, layers := range map[string][]*layer.Layer{
		"paths": stack([]member{below(0), below(1)}, []member{below(2), below(3)}), "targets": stack(links),
	} {
		_, err := Flatten(context.Background(), layers)
		if !errors.Is(err, errLeftOut) || fault.KindOf(err) != fault.Unsupported {
			t.Errorf("%s: merging gives %v, want %v", name, err, errLeftOut)
		}
	}
}

// TestFlattenEnds: merging ends with its context, also where symlinks make the path of each entry a very long one.
func TestFlattenEnds(t *testing.T) {
	const hops, entries = 38, 100_000
	members := []member{dir("d"), dir("t"), symlink(fmt.Sprint("l", hops), "t")}
	for i := range hops {
		members = append(members, symlink(fmt.Sprint("l", i), strings.Repeat("d/../", 800)+fmt.Sprint("l", i+1)))
	}
	for name, rest := range map[string]func(i int) member{
		"entries":    func(i int) member { return file(fmt.Sprint("l0/", i), "") },
		"whiteouts":  func(i int) member { return gone(fmt.Sprint("l0/.wh.", i)) },
		"hard links": func(i int) member { return hardlink(fmt.Sprint("h", i), "l0/late") },
	} {
		t.Run(name, func(t *testing.T) {
			upper := make([]member, entries)
			for i := range upper {
				upper[i] = rest(i)
			}
			layers := stack(members, append(upper, file("t/late", "")))
			why := errors.New("enough")
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
			begun := time.Now()
			if _, err := Flatten(ctx, layers); !errors.Is(err, why) || fault.KindOf(err) != fault.Failure {
				t.Errorf("merging ended with %v, want %v", err, why)
			}
			if took := time.Since(begun); took > 30*time.Second {
				t.Errorf("merging went on for %v", took)
			}
		})
	}
}
