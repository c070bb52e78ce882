package store

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/jsonfile"
)

// sparseDisk gives an image a disk of size bytes with data at these offsets only.
func sparseDisk(t *testing.T, home *Home, image Image, size int64, data map[int64]string) {
	t.Helper()
	file, err := os.Create(home.Images().Disk(image.ID))
	if err != nil {
		t.Fatal(err)
	}
	for offset, text := range data {
		if _, err := file.WriteAt([]byte(text), offset); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(file.Truncate(size), file.Close()); err != nil {
		t.Fatal(err)
	}
}

func sha256sum(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("sha256sum", path).Output()
	if err != nil {
		t.Fatalf("sha256sum: %v", err)
	}
	return strings.Fields(string(out))[0]
}

func TestDiskSHA256IsThatOfSha256sum(t *testing.T) {
	home := testHome(t)
	const mib = 1 << 20
	for id, c := range map[string]struct {
		size int64
		data map[int64]string
	}{
		"1111": {0, nil},
		"2222": {5*mib + 17, nil},
		"3333": {4 * mib, map[int64]string{0: "start"}},
		"4444": {7*mib + 1, map[int64]string{mib - 1: strings.Repeat("across ", mib/2), 7 * mib: "e"}},
		"5555": {3 * mib, map[int64]string{0: strings.Repeat("all of it", mib)[:3*mib]}},
	} {
		image := publish(t, home, id, "r", "d")
		sparseDisk(t, home, image, c.size, c.data)
		want := sha256sum(t, home.Images().Disk(image.ID))
		for range 2 { // the second one from the file that the first one wrote
			got, err := home.Images().DiskSHA256(context.Background(), image.ID)
			if err != nil || got != want {
				t.Errorf("a disk of %d bytes with %d pieces of data: got (%q, %v), want what sha256sum prints, %q",
					c.size, len(c.data), got, err, want)
			}
		}
		if known := home.Images().KnownSHA256(image.ID); known != want {
			t.Errorf("a disk of %d bytes: %q is kept, want %q", c.size, known, want)
		}
	}
}

// TestKeptDigestIsOfThisDisk: what was kept for another file, or is damaged, is not believed.
func TestKeptDigestIsOfThisDisk(t *testing.T) {
	home := testHome(t)
	images := home.Images()
	image := publish(t, home, "6666", "r", "d")
	if _, err := images.DiskSHA256(context.Background(), image.ID); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func() error{
		"a disk of the same size": func() error {
			sparseDisk(t, home, image, image.Size, map[int64]string{0: "new!"})
			return os.Chtimes(images.Disk(image.ID), time.Time{}, time.Unix(5, 5))
		},
		"a damaged file": func() error { return os.WriteFile(images.path(image.ID, digestName), []byte("{"), 0o600) },
		"another schema": func() error {
			other := `{"schema":9,"sha256":"x","size":4,"mtime":5000000005}`
			return os.WriteFile(images.path(image.ID, digestName), []byte(other), 0o600)
		},
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		got, err := images.DiskSHA256(context.Background(), image.ID)
		if want := sha256sum(t, images.Disk(image.ID)); err != nil || got != want {
			t.Errorf("%s: got (%q, %v), want %q", name, got, err, want)
		}
	}
}

// TestDigestWhileAnotherHoldsTheImage: it is right, and is not kept. What a killed process left goes away later.
func TestDigestWhileAnotherHoldsTheImage(t *testing.T) {
	home := testHome(t)
	images := home.Images()
	image := publish(t, home, "7777", "r", "d")
	held, err := images.LockImage(context.Background(), image.ID)
	if err != nil {
		t.Fatal(err)
	}
	left := images.path(image.ID, jsonfile.NewPrefix+"left")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want := sha256sum(t, images.Disk(image.ID))
	for _, kept := range []string{"", want} {
		got, err := images.DiskSHA256(context.Background(), image.ID)
		if err != nil || got != want || images.KnownSHA256(image.ID) != kept {
			t.Errorf("got (%q, %v) and %q kept, want %q and %q", got, err, images.KnownSHA256(image.ID), want, kept)
		}
		held.Release()
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a killed process left is still there: %v", err)
	}
}

func TestDigestCancelled(t *testing.T) {
	home := testHome(t)
	image := publish(t, home, "8888", "r", "d")
	sparseDisk(t, home, image, 8<<40, nil) // hashing it would take hours
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(20*time.Millisecond, func() { cancel(stop) })
	if _, err := home.Images().DiskSHA256(ctx, image.ID); !errors.Is(err, stop) {
		t.Errorf("got error %v, want %v", err, stop)
	}
	if known := home.Images().KnownSHA256(image.ID); known != "" {
		t.Errorf("%q is kept of a disk that was not read to its end", known)
	}
}
