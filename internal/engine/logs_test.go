package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestOldLogs: of the consoles the newest stay, whatever characters the home's path has, and nothing else is touched.
func TestOldLogs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a [home] *?")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name string, days int) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		at := epoch.AddDate(0, 0, days)
		if err := os.Chtimes(path, at, at.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	write("other", 0)
	for n := range keptLogs + 2 {
		write(fmt.Sprintf("vm%d%s", n, keptLog), n)
	}
	removeOldest(dir)
	for n := range keptLogs + 2 {
		_, err := os.Stat(filepath.Join(dir, fmt.Sprintf("vm%d%s", n, keptLog)))
		if stays := err == nil; stays != (n >= 2) {
			t.Errorf("the log %d is there: %v (%v)", n, stays, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "other")); err != nil {
		t.Error(err)
	}
}
