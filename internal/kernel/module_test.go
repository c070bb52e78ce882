package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fault"
)

// readSet collects files below lib/modules/RELEASE and reads them.
func readSet(t *testing.T, files map[string][]byte) (*moduleSet, error) {
	t.Helper()
	c, err := newCollection(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.close() })
	for name, data := range files {
		if err := c.addFile(testRelease+"/"+name, 0o644, time.Time{}, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	return readModules(c.root.Children[testRelease], testRelease)
}

func names(modules []*module) string {
	var list []string
	for _, m := range modules {
		list = append(list, m.name)
	}
	return strings.Join(list, " ")
}

func TestLoadOrder(t *testing.T) {
	set, err := readSet(t, map[string][]byte{
		"a.ko":          ko("b,c"),
		"b.ko":          ko("d-d"),
		"c.ko":          ko("d-d,built-in"),
		"d-d.ko":        ko(""),
		"fs.ko":         ko("a", "softdep=ignored pre: sum not-there post: later"),
		"sum1.ko":       ko("", "alias=sum"),
		"sum2.ko":       ko("", "alias=sum"),
		"later.ko":      ko(""),
		"loop1.ko":      ko("loop2"),
		"loop2.ko":      ko("loop1"),
		"modules.order": []byte("sum2.ko\nsum1.ko\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ wanted, want string }{
		{"a", "d_d b c a"},
		{"d_d a", "d_d b c a"},
		{"fs", "sum2 sum1 d_d b c a fs"},
		{"loop1", "loop2 loop1"},
	} {
		var wanted []*module
		for _, name := range strings.Fields(test.wanted) {
			wanted = append(wanted, set.byName[name])
		}
		if got := names(set.loadOrder(wanted)); got != test.want {
			t.Errorf("to load %s it takes %q, want %q", test.wanted, got, test.want)
		}
	}
	if got := names(set.closure(set.byName["fs"])); got != "d_d b c a" {
		t.Errorf("fs depends on %q, want %q: soft dependencies do not count", got, "d_d b c a")
	}
}

func TestModuleUpdates(t *testing.T) {
	set, err := readSet(t, map[string][]byte{"kernel/a.ko": ko("b"), "updates/dkms/a.ko": ko("c"), "extra/a.ko": ko("d")})
	if err != nil {
		t.Fatal(err)
	}
	if len(set.modules) != 1 || set.byName["a"].path != "updates/dkms/a.ko" {
		t.Errorf("the module a is %q, want the one of updates/ alone", set.byName["a"].path)
	}
}

func TestSelectDrivers(t *testing.T) {
	set, err := readSet(t, testModules())
	if err != nil {
		t.Fatal(err)
	}
	got, err := set.selectDrivers()
	if err != nil {
		t.Fatal(err)
	}
	want := "virtio virtio_mmio virtio_blk crc32c_generic jbd2 ext4 virtio_console rng_core virtio_rng"
	if names(got.load) != want {
		t.Errorf("the initramfs loads %q, want %q", names(got.load), want)
	}
	if want := []string{"overlay", "tun"}; !slices.Equal(got.builtIn, want) {
		t.Errorf("built in are %q, want %q", got.builtIn, want)
	}
	if want := []string{"virtio_pci", "virtio_net", "veth", "bridge", "nf_tables"}; !slices.Equal(got.missing, want) {
		t.Errorf("missing are %q, want %q", got.missing, want)
	}
	lacks := (&Kernel{Missing: append(got.missing, "of a later version")}).Lacks()
	for _, part := range []string{"virtio_net (there is no network), ", "nf_tables (", ", of a later version"} {
		if !strings.Contains(lacks, part) {
			t.Errorf("got %q, want %q in it", lacks, part)
		}
	}
	if strings.Contains(lacks, "()") {
		t.Errorf("what the lack of a driver means is not said: %q", lacks)
	}
}

func TestSelectDriversLoop(t *testing.T) {
	files := testModules()
	files["kernel/fs/jbd2/jbd2.ko"] = ko("ext4")
	set, err := readSet(t, files)
	if err != nil {
		t.Fatal(err)
	}
	_, err = set.selectDrivers()
	wantFault(t, err, fault.Corrupt, "needs itself", "")
}

func TestIndexTexts(t *testing.T) {
	files := testModules()
	files["z.ko"] = elfModule([]string{"alias=pci:v[0-9]-x", "alias=bad]", "weakdep=fuse"}, []string{"z_one", "z_two"})
	set, err := readSet(t, files)
	if err != nil {
		t.Fatal(err)
	}
	made := set.indexes()
	for _, test := range []struct{ file, line string }{
		{"modules.dep", "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko"},
		{"modules.dep", "kernel/fs/jbd2/jbd2.ko:"},
		{"modules.alias", "alias fs-ext4 ext4"},
		{"modules.alias", "alias bad] z"},
		{"modules.softdep", "softdep ext4 pre: crc32c"},
		{"modules.weakdep", "weakdep z fuse"},
		{"modules.devname", "fuse fuse c10:229"},
		{"modules.symbols", "alias symbol:z_two z"},
	} {
		if !slices.Contains(strings.Split(string(made[test.file]), "\n"), test.line) {
			t.Errorf("%s lacks the line %q:\n%s", test.file, test.line, made[test.file])
		}
	}
	if len(made) != len(madeFiles()) {
		t.Errorf("%d indexes are made, want the %d of madeFiles", len(made), len(madeFiles()))
	}
	for _, test := range []struct{ file, key, want string }{
		{"modules.dep.bin", "ext4", "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko"},
		{"modules.alias.bin", "pci:v[0-9]_x", "z"},
		{"modules.alias.bin", "bad]", ""},
		{"modules.symbols.bin", "symbol:z_one", "z"},
		{"modules.builtin.alias.bin", "fs_overlay", "overlay"},
	} {
		if got := strings.Join(lookUp(t, made[test.file], test.key), "|"); got != test.want {
			t.Errorf("%s has %q for %q, want %q", test.file, got, test.key, test.want)
		}
	}
}

// lookUp searches an index as kmod does: from the root, a byte at a time.
func lookUp(t *testing.T, index []byte, key string) []string {
	t.Helper()
	number := func(at uint32) uint32 { return binary.BigEndian.Uint32(index[at:]) }
	if number(0) != trieMagic || number(4) != trieVersion {
		t.Fatalf("the index begins with %x", index[:8])
	}
	text := func(at uint32) string { return string(index[at : int(at)+bytes.IndexByte(index[at:], 0)]) }
	for node := number(8); node != 0; {
		at := node & 0x0fffffff
		if node&triePrefix != 0 {
			prefix := text(at)
			at += uint32(len(prefix)) + 1
			rest, ok := strings.CutPrefix(key, prefix)
			if !ok {
				return nil
			}
			key = rest
		}
		next := uint32(0)
		if node&trieChildren != 0 {
			first, last := index[at], index[at+1]
			if key != "" && key[0] >= first && key[0] <= last {
				next = number(at + 2 + 4*uint32(key[0]-first))
			}
			at += 2 + 4*(uint32(last-first)+1)
		}
		if key == "" {
			return valuesAt(node, at, number, text)
		}
		node, key = next, key[1:]
	}
	return nil
}

func valuesAt(node, at uint32, number func(uint32) uint32, text func(uint32) string) []string {
	var values []string
	if node&trieValues == 0 {
		return nil
	}
	count := number(at)
	at += 4
	for range count {
		value := text(at + 4)
		values = append(values, value)
		at += 4 + uint32(len(value)) + 1
	}
	return values
}

func TestTrie(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 50 {
		want := map[string][]string{}
		var entries []trieEntry
		for i := range round * 3 {
			key := ""
			for range random.IntN(6) {
				key += string("ab_*z"[random.IntN(5)])
			}
			value := fmt.Sprint(i)
			want[key] = append(want[key], value)
			entries = append(entries, trieEntry{key, value, uint32(i)})
		}
		random.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
		entries = append(entries, trieEntry{key: "ümlaut", value: "x"}, trieEntry{key: "nul", value: "a\x00b"})
		index := writeTrie(entries)
		for key, values := range want {
			if got := lookUp(t, index, key); !slices.Equal(got, values) {
				t.Fatalf("round %d: the index has %q for %q, want %q", round, got, key, values)
			}
		}
		for _, key := range []string{"nosuch", "ümlaut", "nul", "aaaaaaaaaa"} {
			if got := lookUp(t, index, key); got != nil {
				t.Errorf("round %d: the index has %q for %q, which it should not have", round, got, key)
			}
		}
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func FuzzModule(f *testing.F) {
	dir := f.TempDir()
	f.Add(ko("a,b", "softdep=pre: c", "alias=x[a-b]"))
	f.Add(elfModule([]string{"vermagic=x"}, []string{"a"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := newCollection(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.close() }()
		node, err := c.store(bytes.NewReader(data), 0o644, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = readModule("a.ko", node, testRelease)
	})
}
