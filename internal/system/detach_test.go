package system

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDetach: a process that outlives this one has a session of its own and, of this one's descriptors, what it was
// passed and nothing that was inherited.
func TestDetach(t *testing.T) {
	dir := t.TempDir()
	inherited, err := unix.Open(filepath.Join(dir, "inherited"), unix.O_CREAT|unix.O_RDWR, 0o600) // without O_CLOEXEC
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited)
	output, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	passed, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer passed.Close()
	script := "readlink /proc/$$/fd/*; cut -d ' ' -f 6 /proc/$$/stat; echo $$; pwd; echo done >&3"
	if err := NewCommandRunner("/usr/bin:/bin").Detach([]string{"/bin/sh", "-c", script}, output, theirs); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	_ = passed.SetReadDeadline(time.Now().Add(10 * time.Second))
	answer := make([]byte, 16)
	if n, err := passed.Read(answer); err != nil || string(answer[:n]) != "done\n" {
		t.Fatalf("over descriptor 3 came %q (%v)", answer[:n], err)
	}
	text, err := os.ReadFile(output.Name())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(text))
	if strings.Contains(string(text), "inherited") {
		t.Errorf("it has a descriptor that this process only inherited:\n%s", text)
	}
	session, pid, cwd := lines[len(lines)-3], lines[len(lines)-2], lines[len(lines)-1]
	if session != pid || session == fmt.Sprint(os.Getpid()) || cwd != "/" {
		t.Errorf("it has session %s, process id %s and directory %s, want a session of its own in /", session, pid, cwd)
	}
}
