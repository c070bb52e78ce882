package store

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fault"
)

// TestLostImage: an image that was not settled when the machine went down is damaged, and any other is not. What a crash
// leaves of it may be empty.
func TestLostImage(t *testing.T) {
	const otherBoot = "00000000-0000-0000-0000-000000000000"
	tests := map[string]struct {
		settle bool
		boot   string // what the mark has after the crash; "-" leaves it
		lost   bool
	}{
		"no crash":                      {false, "-", false},
		"settled":                       {true, "-", false},
		"crash before it was settled":   {false, otherBoot, true},
		"crash that cost the mark, too": {false, "", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			home := testHome(t)
			images := home.Images()
			image := publish(t, home, "aaaa", "debian", "sha256:d1")
			if test.settle {
				if err := images.Settle(image.ID); err != nil {
					t.Fatal(err)
				}
			}
			if test.boot != "-" {
				if err := os.WriteFile(images.path(image.ID, unsettled), []byte(test.boot), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(images.path(image.ID, metaName), 0); err != nil {
					t.Fatal(err)
				}
			}
			_, err := images.Get(image.ID)
			told := fault.KindOf(err) == fault.Corrupt && strings.Contains(err.Error(), "the machine went down")
			if (err != nil) != test.lost || err != nil && !told {
				t.Errorf("got %v, want damage: %v", err, test.lost)
			}
		})
	}
}

// TestSettle: a second time does nothing, and neither does it for an image that was removed meanwhile.
func TestSettle(t *testing.T) {
	home := testHome(t)
	images := home.Images()
	image := publish(t, home, "aaaa", "debian", "sha256:d1")
	for range 2 {
		if err := images.Settle(image.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(images.path(image.ID, unsettled)); err == nil {
			t.Error("the settled image is still marked")
		}
	}
	if err := images.Settle("bbbb"); err != nil {
		t.Errorf("settling what is not there: %v", err)
	}
}

// TestSettleAnother: settling an image that is removed and published anew meanwhile does not settle the new one.
func TestSettleAnother(t *testing.T) {
	home := testHome(t)
	images := home.Images()
	image := publish(t, home, "aaaa", "debian", "sha256:d1")
	begun := false
	err := images.settle(image.ID, func(file *os.File) error {
		if !begun {
			begun = true
			if err := images.Remove(t.Context(), image.ID, allow); err != nil {
				t.Fatal(err)
			}
			publish(t, home, "aaaa", "debian", "sha256:d1")
		}
		return file.Sync()
	})
	if err != nil || !begun {
		t.Errorf("settling an image that is removed meanwhile: %v, begun: %v", err, begun)
	}
	if !images.Unsettled(image.ID) {
		t.Error("the image that was published meanwhile has lost its mark")
	}
}

// TestSettleFails: an image that the host's disk did not take is damaged, whoever settles it next, or waits to, since the kernel
// says so once.
func TestSettleFails(t *testing.T) {
	home := testHome(t)
	images := home.Images()
	image := publish(t, home, "aaaa", "debian", "sha256:d1")
	second := make(chan error, 1)
	err := images.settle(image.ID, func(*os.File) error {
		go func() { second <- images.Settle(image.ID) }()
		select {
		case err := <-second:
			t.Fatalf("a second one did not wait for the first: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		return syscall.EIO
	})
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("settling on a disk with an error: got %v, want the error", err)
	}
	for what, err := range map[string]error{"who waited": <-second, "who comes later": images.Settle(image.ID)} {
		if fault.KindOf(err) != fault.Corrupt || !strings.Contains(err.Error(), "could not be written") {
			t.Errorf("%s: got %v, want the damage", what, err)
		}
	}
	_, err = images.Get(image.ID)
	if fault.KindOf(err) != fault.Corrupt || !strings.Contains(err.Error(), "its disk could not be written") {
		t.Errorf("got %v, want the damage", err)
	}
}

// TestSettleLost: settling what a crash of the machine has cost does not make it whole.
func TestSettleLost(t *testing.T) {
	home := testHome(t)
	images := home.Images()
	image := publish(t, home, "aaaa", "debian", "sha256:d1")
	if err := os.WriteFile(images.path(image.ID, unsettled), []byte("another boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := images.Settle(image.ID); fault.KindOf(err) != fault.Corrupt {
		t.Errorf("settling it: got %v, want the damage", err)
	}
	if _, err := images.Get(image.ID); fault.KindOf(err) != fault.Corrupt {
		t.Errorf("afterwards: got %v, want the damage", err)
	}
}
