package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/rootfs"
)

const testRelease = "6.1.0-9-test"

// testTime is a time with nanoseconds, which no tar keeps.
func testTime() time.Time { return time.Date(2024, 5, 6, 7, 8, 9, 123, time.UTC) }

// excused skips the test if BANGER_TEST_EXCUSE has the name, and else fails it.
func excused(t *testing.T, name, text string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("BANGER_TEST_EXCUSE"), ","), name) {
		t.Skip(text)
	}
	t.Fatalf("%s (BANGER_TEST_EXCUSE=%s skips this test)", text, name)
}

// tool returns the path of a program that the tests need.
func tool(t *testing.T, name string) string {
	t.Helper()
	if filepath.IsAbs(name) {
		return name
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	excused(t, name, "the program "+name+" is missing")
	return ""
}

// run runs a program and returns what it prints.
func run(t *testing.T, stdin []byte, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(tool(t, name), args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return string(out)
}

// realDebs returns the packages of a distribution's kernel.
func realDebs(t *testing.T) []string {
	t.Helper()
	debs := strings.Fields(os.Getenv("BANGER_TEST_KERNEL_DEB"))
	if len(debs) == 0 {
		excused(t, "kernel-deb", "BANGER_TEST_KERNEL_DEB does not name a linux-image package")
	}
	return debs
}

// bzImage returns the beginning of a kernel of that release.
func bzImage(release string) []byte {
	data := make([]byte, 4096)
	copy(data[headerMagicAt:], "HdrS")
	binary.LittleEndian.PutUint16(data[headerProtocolAt:], 0x020f)
	binary.LittleEndian.PutUint16(data[headerVersionAt:], 0x800)
	binary.LittleEndian.PutUint16(data[headerXloadAt:], 0x3f)
	copy(data[0xa00:], release+" (builder@host) #1 SMP\x00")
	return data
}

// elfModule returns a relocatable ELF file for x86-64 with the given .modinfo and exported symbols.
func elfModule(info, exports []string) []byte {
	join := func(strs []string) string {
		var b strings.Builder
		for _, s := range strs {
			b.WriteString(s + "\x00")
		}
		return b.String()
	}
	names, symbols := "\x00", make([]byte, 24)
	for _, symbol := range exports {
		entry := make([]byte, 24)
		binary.LittleEndian.PutUint32(entry, uint32(len(names)))
		binary.LittleEndian.PutUint16(entry[6:], 1)
		symbols = append(symbols, entry...)
		names += "__ksymtab_" + symbol + "\x00"
	}
	const sectionNames = "\x00.modinfo\x00.symtab\x00.strtab\x00.shstrtab\x00"
	sections := []struct {
		name, kind, link, size uint32
		data                   string
	}{{}, {1, 1, 0, 0, join(info)}, {10, 2, 3, 24, string(symbols)}, {18, 3, 0, 0, names}, {26, 3, 0, 0, sectionNames}}
	body := make([]byte, 64)
	var table bytes.Buffer
	for _, s := range sections {
		// sh_name sh_type sh_flags sh_addr sh_offset sh_size sh_link sh_info sh_addralign sh_entsize
		_ = binary.Write(&table, binary.LittleEndian, []uint32{s.name, s.kind, 0, 0, 0, 0, uint32(len(body)), 0,
			uint32(len(s.data)), 0, s.link, 1, 1, 0, s.size, 0})
		body = append(body, s.data...)
	}
	copy(body, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(body[16:], 1)  // ET_REL
	binary.LittleEndian.PutUint16(body[18:], 62) // EM_X86_64
	binary.LittleEndian.PutUint32(body[20:], 1)
	binary.LittleEndian.PutUint64(body[40:], uint64(len(body)))
	binary.LittleEndian.PutUint16(body[52:], 64)
	binary.LittleEndian.PutUint16(body[58:], 64)
	binary.LittleEndian.PutUint16(body[60:], uint16(len(sections)))
	binary.LittleEndian.PutUint16(body[62:], uint16(len(sections)-1))
	return append(body, table.Bytes()...)
}

// ko returns a module of testRelease that depends on others, with further fields of .modinfo.
func ko(depends string, more ...string) []byte { return koOf(testRelease, depends, more...) }

func koOf(release, depends string, more ...string) []byte {
	return elfModule(append([]string{"depends=" + depends, "vermagic=" + release + " SMP mod_unload"}, more...), nil)
}

// testModules returns a small directory of modules that a virtual machine can boot with, by path.
func testModules() map[string][]byte { return modulesFor(testRelease) }

func modulesFor(release string) map[string][]byte {
	ko := func(depends string, more ...string) []byte { return koOf(release, depends, more...) }
	return map[string][]byte{
		"kernel/drivers/virtio/virtio.ko":             ko(""),
		"kernel/drivers/virtio/virtio_mmio.ko":        ko("virtio"),
		"kernel/drivers/block/virtio_blk.ko":          ko("virtio"),
		"kernel/drivers/char/virtio_console.ko":       ko("virtio"),
		"kernel/drivers/char/hw_random/virtio-rng.ko": ko("virtio,rng-core"),
		"kernel/drivers/char/hw_random/rng-core.ko":   ko(""),
		"kernel/fs/ext4/ext4.ko":                      ko("jbd2", "softdep=pre: crc32c", "alias=fs-ext4"),
		"kernel/fs/jbd2/jbd2.ko":                      ko(""),
		"kernel/crypto/crc32c_generic.ko":             ko("", "alias=crc32c", "alias=crypto-crc32c"),
		"kernel/fs/fuse/fuse.ko":                      ko("", "alias=devname:fuse", "alias=char-major-10-229"),
		"modules.order":                               []byte("kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio.ko\n"),
		"modules.builtin":                             []byte("kernel/net/tun/tun.ko\nkernel/fs/overlayfs/overlay.ko\n"),
		"modules.builtin.modinfo":                     []byte("overlay.alias=fs-overlay\x00overlay.license=GPL\x00"),
		"modules.dep":                                 []byte("of another machine\n"),
	}
}

// writeFiles writes files below dir, with testTime.
func writeFiles(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, testTime(), testTime()); err != nil {
			t.Fatal(err)
		}
	}
}

// files of a whole kernel as a package has it, by path.
func kernelFiles(modules string) map[string][]byte {
	files := map[string][]byte{"boot/vmlinuz-" + testRelease: bzImage(testRelease)}
	for name, data := range testModules() {
		files[modules+"/"+testRelease+"/"+name] = data
	}
	return files
}

// testSource returns a small kernel as files.
func testSource(t *testing.T, release string) Source {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, filepath.Join(dir, release), modulesFor(release))
	writeFiles(t, dir, map[string][]byte{"vmlinuz": bzImage(release)})
	return FromFiles(filepath.Join(dir, "vmlinuz"), filepath.Join(dir, release))
}

// arArchive returns an archive of members, given as name, content, name, content…
func arArchive(members ...string) []byte {
	out := bytes.NewBufferString(arMagic)
	for i := 0; i < len(members); i += 2 {
		fmt.Fprintf(out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n%s", members[i], 0, 0, 0, "100644", len(members[i+1]), members[i+1])
		if len(members[i+1])%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

// tarArchive returns a tar of files, by path.
func tarArchive(files map[string][]byte) string {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range files {
			if !yield(name) {
				return
			}
		}
	}) {
		_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: testTime()})
		_, _ = w.Write(files[name])
	}
	_ = w.Close()
	return out.String()
}

// debFile writes an uncompressed package and returns its path.
func debFile(t *testing.T, fields string, files map[string][]byte) string {
	t.Helper()
	control := tarArchive(map[string][]byte{"./control": []byte("Package: linux-image-test\nVersion: 1\n" + fields + "\n")})
	return writeTemp(t, arArchive("debian-binary", "2.0\n", "control.tar", control, "data.tar", tarArchive(files)))
}

func writeTemp(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "package.deb")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// listing is a BuildModules that writes the tree's paths and attributes in place of a file system.
func listing(_ context.Context, tree *rootfs.Tree, outFile string) error {
	var out strings.Builder
	err := tree.Walk(func(path string, n *rootfs.Node) error {
		fmt.Fprintf(&out, "%s kind=%d mode=%o owner=%d:%d mtime=%d.%d size=%d", path, n.Kind, n.Mode, n.UID, n.GID,
			n.MTime.Unix(), n.MTime.Nanosecond(), n.Size)
		if n.Kind == rootfs.Regular && !strings.HasSuffix(path, ".bin") {
			data, err := io.ReadAll(content(n))
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %q", data)
		}
		_, err := fmt.Fprintln(&out)
		return err
	})
	if err != nil {
		return err
	}
	return os.WriteFile(outFile, []byte(out.String()), 0o600)
}

// unpack returns a BuildModules that writes the tree as a directory of the host.
func unpack(dir string) BuildModules {
	return func(_ context.Context, tree *rootfs.Tree, outFile string) error {
		err := tree.Walk(func(path string, n *rootfs.Node) error {
			path = filepath.Join(dir, path)
			if n.Kind == rootfs.Directory {
				return os.MkdirAll(path, 0o755)
			}
			data, err := io.ReadAll(content(n))
			if err != nil {
				return err
			}
			return os.WriteFile(path, data, 0o644)
		})
		if err != nil {
			return err
		}
		return os.WriteFile(outFile, nil, 0o600)
	}
}

// importInto imports a kernel and fails the test if that does not work.
func importInto(t *testing.T, s *Store, name string, source Source) *Kernel {
	t.Helper()
	k, err := s.Import(t.Context(), name, source, listing, testTime())
	if err != nil {
		t.Fatalf("importing a good kernel: %v", err)
	}
	return k
}

// wantFault checks an error's kind and that its text and hint have the words.
func wantFault(t *testing.T, err error, kind fault.Kind, text, hint string) {
	t.Helper()
	if err == nil {
		t.Fatalf("it succeeded, want an error with %q", text)
	}
	if fault.KindOf(err) != kind {
		t.Errorf("the error has kind %d, want %d: %v", fault.KindOf(err), kind, err)
	}
	if !strings.Contains(err.Error(), text) {
		t.Errorf("the error does not say %q: %v", text, err)
	}
	if !strings.Contains(fault.HintOf(err), hint) {
		t.Errorf("the hint does not say %q: %q", hint, fault.HintOf(err))
	}
}

// wantEntries checks what the store's directory has besides its lock.
func wantEntries(t *testing.T, s *Store, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, entry := range entries {
		if entry.Name() != lockFile {
			got = append(got, entry.Name())
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the store has %q, want %q", got, want)
	}
}
