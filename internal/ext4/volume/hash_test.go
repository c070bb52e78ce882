package volume

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// someSeed is a seed as e2fsprogs writes it, a UUID: bytes in order.
const someSeed = "01020304-0506-0708-090a-0b0c0d0e0ff0"

var someSeedWords = [4]uint32{0x04030201, 0x08070605, 0x0C0B0A09, 0xF00F0E0D}

// TestHash: debugfs, which judges, hashes names with e2fsprogs' own implementation of all versions.
func TestHash(t *testing.T) {
	image := makeImage(t, "", 4<<20, "-t", "ext2")
	names := []string{"a", "ab", "abc", "abcd", "lost+found", "\xe4\xf6\xfc", strings.Repeat("x", 16),
		strings.Repeat("y", 31), strings.Repeat("z", 32), strings.Repeat("\xff", 33), strings.Repeat("long \x80", 40),
		strings.Repeat("n", 255)}
	seeds := map[string][4]uint32{
		"00000000-0000-0000-0000-000000000000": {},
		someSeed:                               someSeedWords,
	}
	for seed, words := range seeds {
		var script []string
		var want []string
		for version := range uint8(6) {
			for _, name := range names {
				script = append(script, fmt.Sprintf(`dx_hash -h %d -s %s "%s"`, version, seed, name))
				want = append(want, fmt.Sprintf("0x%08x", hashName(version, words, name)))
			}
		}
		for i, got := range debugfsHashes(t, image, script) {
			if got != want[i] {
				t.Errorf("%s: debugfs says %s, hashName %s", script[i], got, want[i])
			}
		}
	}
}

// debugfsHashes returns what debugfs answers to each dx_hash of a script.
func debugfsHashes(t *testing.T, image string, script []string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script")
	must(t, os.WriteFile(file, []byte(strings.Join(script, "\n")+"\n"), 0o600))
	var hashes []string
	for line := range strings.Lines(runTool(t, "debugfs", "-f", file, image)) {
		if _, hash, ok := strings.Cut(line, " is 0x"); ok && strings.HasPrefix(line, "Hash of ") {
			hashes = append(hashes, fmt.Sprintf("0x%08s", strings.Fields(hash)[0]))
		}
	}
	if len(hashes) != len(script) {
		t.Fatalf("debugfs answered %d of %d commands", len(hashes), len(script))
	}
	return hashes
}

// TestHashOfNoName: the hash that marks the end of a directory becomes the one before it.
func TestHashOfNoName(t *testing.T) {
	const name = "MBFHR=00" // found by trying
	if plain := legacyHash(name, false) &^ 1; plain != hashEnd {
		t.Fatalf("legacyHash(%q) = %08x; the test needs a name whose hash is %08x", name, plain, uint32(hashEnd))
	}
	if got := hashName(hashLegacy, [4]uint32{}, name); got != hashEnd-2 {
		t.Errorf("hashName(%q) = %08x; want %08x", name, got, uint32(hashEnd-2))
	}
}

// TestHashCollisions: names of one hash that lie in two blocks, which the lowest bit of a hash in the index says.
func TestHashCollisions(t *testing.T) {
	source := t.TempDir()
	must(t, os.Mkdir(filepath.Join(source, "many"), 0o755))
	for _, name := range collidingNames() {
		must(t, os.WriteFile(filepath.Join(source, "many", name), nil, 0o644))
	}
	image := makeImage(t, source, 4<<20, "-t", "ext4", "-b", "1024", "-O", "^has_journal",
		"-E", "hash_seed="+someSeed)
	rebuildIndexes(t, image)
	mustBeClean(t, image)
	v := openImage(t, image)
	mustAgree(t, withoutOwn(treeFacts(t, readTree(t, v), time.Second)), sourceFacts(t, source))
	dir, err := v.Lookup("/many")
	must(t, err)
	m, err := v.BlockMap(dir)
	must(t, err)
	_, root, err := v.readRoot(&dir, &m)
	must(t, err)
	if !slices.ContainsFunc(root, func(e indexEntry) bool { return e.hash&1 != 0 }) {
		t.Error("no hash goes on in another block, which the test is about")
	}
	mustFindHashed(t, v, "/many")
}

// collidingNames returns names of which two each have the same hash, so long that a block of 1024 bytes has three.
func collidingNames() []string {
	var names []string
	first := map[uint32]string{}
	for i := range 300000 {
		name := fmt.Sprintf("%0250d", i)
		hash := hashName(hashHalfMD4, someSeedWords, name)
		if other, taken := first[hash]; taken {
			names = append(names, name, other)
		}
		first[hash] = name
	}
	return names
}

// TestHashVersions: indexes as e2fsck makes them with each version, of signed and of unsigned characters.
func TestHashVersions(t *testing.T) {
	source := t.TempDir()
	must(t, os.Mkdir(filepath.Join(source, "many"), 0o755))
	for i := range 100 {
		name := fmt.Sprintf("\xe4 name %d %s", i, strings.Repeat("\x80", 20))
		must(t, os.WriteFile(filepath.Join(source, "many", name), nil, 0o644))
	}
	for number, algorithm := range []string{"legacy", "half_md4", "tea"} {
		for signed, flag := range []string{"2", "1"} {
			t.Run(fmt.Sprint(algorithm, " of signed characters: ", signed == 1), func(t *testing.T) {
				image := makeImage(t, source, 4<<20, "-t", "ext4", "-b", "1024", "-O", "^has_journal")
				debugfs(t, image, "ssv def_hash_version "+algorithm, "ssv flags "+flag)
				rebuildIndexes(t, image)
				v := openImage(t, image)
				if s := v.Superblock(); s.HashVersion != uint8(number) || s.flags != uint32(2-signed) {
					t.Fatalf("the superblock has the hash %d and the flags %x", s.HashVersion, s.flags)
				}
				mustAgree(t, withoutOwn(treeFacts(t, readTree(t, v), time.Second)), sourceFacts(t, source))
				mustHaveIndex(t, v, "/many")
			})
		}
	}
}
