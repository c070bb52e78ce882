package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
)

// TestDebOfDpkg: packages that dpkg-deb builds are read in each of its compressions, with modules in each of theirs.
func TestDebOfDpkg(t *testing.T) {
	want := func(t *testing.T) string {
		s := NewStore(t.TempDir())
		return modulesOf(t, importInto(t, s, "", FromDeb(debFile(t, "Architecture: amd64", kernelFiles("lib/modules")))))
	}(t)
	if strings.Count(want, ".ko kind=") != 10 || !strings.Contains(want, "/"+testRelease+"/modules.alias.bin ") {
		t.Fatalf("the tree lacks modules or indexes:\n%s", want)
	}
	for _, test := range []struct{ compression, modules, suffix, pack string }{
		{"none", "lib/modules", "", ""},
		{"gzip", "lib/modules", ".gz", "gzip"},
		{"xz", "usr/lib/modules", ".xz", "xz"},
		{"zstd", "usr/lib/modules", ".zst", "zstd"},
	} {
		t.Run(test.compression, func(t *testing.T) {
			dir := t.TempDir()
			files := map[string][]byte{"DEBIAN/control": []byte("Package: linux-image-test\nVersion: 1\n" +
				"Architecture: amd64\nMaintainer: a <a@example.org>\nDescription: a kernel\n")}
			for name, data := range kernelFiles(test.modules) {
				if test.pack != "" && strings.HasSuffix(name, ".ko") {
					name, data = name+test.suffix, []byte(run(t, data, test.pack, "-c"))
				}
				files[name] = data
			}
			writeFiles(t, dir, files)
			deb := filepath.Join(t.TempDir(), "linux.deb")
			run(t, nil, "dpkg-deb", "--root-owner-group", "-Z"+test.compression, "--build", dir, deb)
			k := importInto(t, NewStore(t.TempDir()), "", FromDeb(deb))
			if got := modulesOf(t, k); withoutDirectories(got) != withoutDirectories(want) {
				t.Errorf("the tree is\n%s\nwant\n%s", got, want)
			}
			if k.Version != testRelease || k.Source != "linux.deb" {
				t.Errorf("version %q of %q, want %q of linux.deb", k.Version, k.Source, testRelease)
			}
		})
	}
}

// modulesOf returns what listing wrote.
func modulesOf(t *testing.T, k *Kernel) string {
	t.Helper()
	data, err := os.ReadFile(k.ModulesImage())
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// withoutDirectories drops the directories, whose times a fixture does not set, and depmod's files, which have theirs.
func withoutDirectories(listing string) string {
	lines := slices.DeleteFunc(strings.Split(listing, "\n"), func(line string) bool {
		name, _, _ := strings.Cut(line, " ")
		return strings.Contains(line, " kind=1 ") || made(filepath.Base(name))
	})
	return strings.Join(lines, "\n")
}

func TestDebAttributes(t *testing.T) {
	k := importInto(t, NewStore(t.TempDir()), "", FromDeb(debFile(t, "Architecture: amd64", kernelFiles("lib/modules"))))
	got := modulesOf(t, k)
	want := fmt.Sprintf("/%s/kernel/fs/fuse/fuse.ko kind=2 mode=644 owner=0:0 mtime=%d.0 size=%d ", testRelease,
		testTime().Unix(), len(testModules()["kernel/fs/fuse/fuse.ko"]))
	if !strings.Contains(got, want) {
		t.Errorf("the tree lacks %q:\n%s", want, got)
	}
}

// TestDebPair: Ubuntu's packages, in either order, and one of them alone.
func TestDebPair(t *testing.T) {
	all := kernelFiles("lib/modules")
	image := map[string][]byte{"boot/vmlinuz-" + testRelease: all["boot/vmlinuz-"+testRelease]}
	delete(all, "boot/vmlinuz-"+testRelease)
	imageDeb := debFile(t, "Architecture: amd64\nDepends: kmod,\n linux-base (>= 4), linux-modules-"+testRelease, image)
	modulesDeb := debFile(t, "Architecture: amd64", all)
	for _, debs := range [][]string{{imageDeb, modulesDeb}, {modulesDeb, imageDeb}} {
		if k := importInto(t, NewStore(t.TempDir()), "", FromDeb(debs...)); k.Modules != 10 {
			t.Errorf("it has %d modules, want 10", k.Modules)
		}
	}
	s := NewStore(t.TempDir())
	_, err := s.Import(t.Context(), "", FromDeb(imageDeb), listing, testTime())
	wantFault(t, err, fault.Unsupported, "linux-modules-"+testRelease, "apt-get download linux-modules-"+testRelease)
	_, err = s.Import(t.Context(), "", FromDeb(modulesDeb), listing, testTime())
	wantFault(t, err, fault.Unsupported, "no kernel", "linux-image")
	wantEntries(t, s)
}

func TestDebRefused(t *testing.T) {
	good := kernelFiles("lib/modules")
	with := func(name string, data []byte) map[string][]byte {
		files := kernelFiles("lib/modules")
		files[name] = data
		return files
	}
	without := func(names ...string) map[string][]byte {
		files := kernelFiles("lib/modules")
		for _, name := range names {
			delete(files, "lib/modules/"+testRelease+"/"+name)
		}
		return files
	}
	const amd64 = "Architecture: amd64"
	for _, test := range []struct {
		name       string
		deb        string
		kind       fault.Kind
		text, hint string
	}{
		{"no file", filepath.Join(t.TempDir(), "none.deb"), fault.NotFound, "none.deb", ""},
		{"empty", writeTemp(t, nil), fault.Unsupported, "no Debian package", ""},
		{"a text", writeTemp(t, []byte("hello, world")), fault.Unsupported, "no Debian package", ""},
		{"an ar archive", writeTemp(t, arArchive("x.o", "x")), fault.Unsupported, "no Debian package", ""},
		{"a later format", writeTemp(t, arArchive("debian-binary", "3.0\n")), fault.Unsupported, "3.0", ""},
		{"no control", writeTemp(t, arArchive("debian-binary", "2.0\n", "data.tar", "")), fault.Unsupported, "control.tar", ""},
		{"another architecture", debFile(t, "Architecture: arm64", good), fault.Unsupported, "arm64", ""},
		{"a meta package", debFile(t, amd64+"\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)", nil),
			fault.Unsupported, "depends on linux-image-6.1.0-56-cloud-amd64", "apt-get download linux-image-6.1.0-56-cloud-amd64"},
		{"two kernels", debFile(t, amd64, with("boot/vmlinuz-6.2", bzImage("6.2"))), fault.Unsupported, "two kernels", ""},
		{"modules of two", debFile(t, amd64, with("lib/modules/6.2/modules.order", nil)), fault.Unsupported, "several kernels", ""},
		{"no kernel image", debFile(t, amd64, with("boot/vmlinuz-"+testRelease, []byte("x"))), fault.Unsupported, "neither a bzImage", "x86-64"},
		{"another version", debFile(t, amd64, with("boot/vmlinuz-"+testRelease, bzImage("6.2"))), fault.Unsupported, testRelease, ""},
		{"module of another version", debFile(t, amd64, with("lib/modules/"+testRelease+"/kernel/x.ko",
			elfModule([]string{"vermagic=6.2 SMP"}, nil))), fault.Unsupported, `"kernel/x.ko"`, ""},
		{"module that is none", debFile(t, amd64, with("lib/modules/"+testRelease+"/kernel/x.ko", []byte("x"))),
			fault.Corrupt, `"kernel/x.ko"`, ""},
		{"damaged compression", debFile(t, amd64, with("lib/modules/"+testRelease+"/kernel/x.ko.xz", []byte("\xfd7zXZ\x00xxxxxxxxx"))),
			fault.Corrupt, "x.ko.xz", ""},
		{"no ext4", debFile(t, amd64, without("kernel/fs/ext4/ext4.ko")), fault.Unsupported, "lacks ext4", ""},
		{"no disks", debFile(t, amd64, without("kernel/drivers/block/virtio_blk.ko", "kernel/drivers/char/virtio_console.ko")),
			fault.Unsupported, "virtio_blk (there are no disks), virtio_console", ""},
		{"a dependency is missing", debFile(t, amd64, without("kernel/fs/jbd2/jbd2.ko")), fault.Unsupported, "ext4 needs jbd2", ""},
		{"a file as a directory", debFile(t, amd64, map[string][]byte{"lib/modules/a/b": nil, "lib/modules/a/b/c": nil}),
			fault.Corrupt, "below a file", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := NewStore(t.TempDir())
			_, err := s.Import(t.Context(), "", FromDeb(test.deb), listing, testTime())
			wantFault(t, err, test.kind, test.text, test.hint)
			wantEntries(t, s)
		})
	}
}

// TestDebDamaged: a package that ends early, wherever, or with altered data, is corrupt, and nothing is kept of it.
func TestDebDamaged(t *testing.T) {
	control := run(t, []byte(tarArchive(map[string][]byte{"control": []byte("Architecture: amd64\n")})), "xz", "-c")
	data := run(t, []byte(tarArchive(kernelFiles("lib/modules"))), "xz", "-c")
	deb := arArchive("debian-binary", "2.0\n", "control.tar.xz", control, "data.tar.xz", data)
	importInto(t, NewStore(t.TempDir()), "", FromDeb(writeTemp(t, deb)))
	s := NewStore(t.TempDir())
	refused := func(what string, deb []byte) {
		_, err := s.Import(t.Context(), "", FromDeb(writeTemp(t, deb)), listing, testTime())
		if fault.KindOf(err) != fault.Corrupt {
			t.Errorf("%s: kind %d, want %d (corrupt): %v", what, fault.KindOf(err), fault.Corrupt, err)
		}
	}
	end := len(deb) - len(data)%2
	for _, length := range []int{9, 60, 71, 72, 75, 140, 200, 72 + 60 + len(control) + 30, end - len(data), end - len(data)/2, end - 20, end - 1} {
		refused(fmt.Sprintf("the first %d of %d bytes", length, len(deb)), deb[:length])
	}
	for _, at := range []int{66, 72 + 58, len(deb) - len(data)/2} {
		altered := bytes.Clone(deb)
		altered[at] ^= 0x55
		refused(fmt.Sprintf("byte %d altered", at), altered)
	}
	wantEntries(t, s)
}

func TestDebCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the user left")
	cancel(reason)
	s := NewStore(t.TempDir())
	_, err := s.Import(ctx, "", FromDeb(debFile(t, "Architecture: amd64", kernelFiles("lib/modules"))), listing, testTime())
	if !errors.Is(err, reason) {
		t.Errorf("the error is %v, want %v", err, reason)
	}
	wantEntries(t, s)
}

func FuzzDeb(f *testing.F) {
	control := tarArchive(map[string][]byte{"control": []byte("Architecture: amd64\nDepends: a,\n b\n")})
	f.Add(arArchive("debian-binary", "2.0\n", "control.tar", control, "data.tar", tarArchive(kernelFiles("lib/modules"))))
	f.Add(arArchive("debian-binary", "2.0\n", "_x", "y", "control.tar", control, "data.tar", tarArchive(nil)))
	f.Add(arArchive())
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, deb []byte) {
		image := filepath.Join(dir, imageFile)
		defer func() { _ = os.Remove(image) }()
		to, err := newCollection(dir, image)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = to.close() }()
		if _, err := readDeb(bytes.NewReader(deb), to); err != nil {
			return
		}
		// What was read without an error can be described, or is refused, without a panic.
		k := &Kernel{dir: dir}
		_, _ = k.describe(to)
	})
}
