package store

import (
	"os"
	"strings"
	"testing"

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
