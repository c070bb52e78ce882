package e2e

import (
	"fmt"
	"testing"
)

// TestDisk: --disk gives the guest a larger disk, and the image stays as it is.
func TestDisk(t *testing.T) {
	u := newUser(t).withKernel()
	u.must("image", "pull", "docker-archive:"+fixture(t, "BANGER_TEST_ALPINE", "alpine"), "--name", "alpine", "--size", "600MiB")
	u.checkGrows("alpine")
	if before := u.spaceAfter("true", "alpine"); before.bytes > 600<<20 {
		t.Errorf("without --disk the file system has %d bytes, want the image's 600 MiB at most", before.bytes)
	}
	for _, c := range []struct {
		disk  string
		words []string
	}{
		{"512MiB", []string{"512MiB", "600MiB", "hint: a disk cannot shrink: pass --disk 600MiB or more"}},
		{"lots", []string{"--disk", `"lots"`}},
		{"-1GiB", []string{"--disk", `"-1GiB"`}},
	} {
		u.refuses(refusal{usage, c.words}, "vm", "run", "--disk="+c.disk, "alpine", "true")
	}
	u.must("image", "export", "alpine", u.dir+"/alpine.ext4")
	fsck(t, u.dir+"/alpine.ext4")
	u.leftovers()
}

// TestDiskOfSystemd: systemd finds the file system grown, and leaves it so.
func TestDiskOfSystemd(t *testing.T) {
	u := newUser(t).withKernel()
	u.must("image", "pull", "oci:"+debianLayout(t)+":bookworm", "--name", "debian", "--size", "1GiB")
	u.checkGrows("debian")
	u.leftovers()
}

// space is what statfs says of a guest's root.
type space struct{ bytes, freeInodes int64 }

// spaceAfter runs a shell's command in a VM of the image and returns what space there is then.
func (u *user) spaceAfter(command, image string, flags ...string) space {
	u.t.Helper()
	args := append([]string{"vm", "run", "--rm"}, flags...)
	out := u.must(append(args, image, "sh", "-c", command+" && stat -f -c '%S %b %d' /")...)
	var blockSize, blocks, inodes int64
	if _, err := fmt.Sscan(out, &blockSize, &blocks, &inodes); err != nil {
		u.t.Fatalf("%s: stat -f printed %q: %v", image, out, err)
	}
	return space{blockSize * blocks, inodes}
}

// checkGrows runs the image on a disk of 20 GiB, and writes a file of 700 MiB, for which its own disk has no room.
func (u *user) checkGrows(image string) {
	u.t.Helper()
	const write = "dd if=/dev/zero of=/large bs=1048576 count=700 2>/dev/null && sync"
	got := u.spaceAfter(write, image, "--disk", "20GiB")
	// statfs leaves out what ext4 takes for itself: with an inode for every 16 KiB, a 64th for their tables, and the journal.
	if got.bytes < 19<<30 || got.bytes > 20<<30 {
		u.t.Errorf("%s on a disk of 20 GiB: the file system has %d bytes, want from 19 to 20 GiB", image, got.bytes)
	}
	if got.freeInodes < 1_200_000 {
		u.t.Errorf("%s on a disk of 20 GiB: %d inodes are free, want one for every 16 KiB", image, got.freeInodes)
	}
}
