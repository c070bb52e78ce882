package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// TestInterrupts: Ctrl-C in each stage of a pull, and during a boot, ends banger with 130 and leaves nothing.
func TestInterrupts(t *testing.T) {
	u := newUser(t).withKernel()
	reference := "oci:" + debianLayout(t) + ":bookworm"
	for builder, stages := range map[string][]string{
		// InjectGuestAgents of the native builder only changes the tree in memory: it is over before a key is seen.
		"native": {"Pull", "Flatten", "BuildExt4"},
		"mkfs":   {"BuildExt4", "ApplyOwnership", "InjectGuestAgents"},
	} {
		for _, stage := range stages {
			t.Run(builder+"/"+stage, func(t *testing.T) {
				u := *u
				u.t = t
				for range attempts {
					if u.interrupt(stage, "image", "pull", reference, "--name", "x", "--builder", builder) == interrupted {
						u.leftovers()
						return
					}
					u.must("image", "rm", "x") // it was whole before the key was pressed
				}
				t.Errorf("Ctrl-C in %s never gave the exit code %d", stage, interrupted)
			})
		}
	}
	t.Run("Boot", func(t *testing.T) {
		u := *u
		u.t = t
		u.must("image", "pull", "oci:"+scratchLayout(t, &u)+":v1", "--name", "scratch")
		if code := u.interrupt("Boot", "vm", "run", "scratch"); code != interrupted {
			t.Errorf("Ctrl-C while a VM boots: want exit code %d, got %d", interrupted, code)
		}
		u.leftovers()
	})
}

// attempts is how often a key may come too late for a stage of some milliseconds.
const attempts = 5

// interrupt runs banger on a terminal, where it shows the stage that it is in, and presses Ctrl-C in the stage. It returns
// the exit code, which is 0 if banger had done its work by then.
func (u *user) interrupt(stage string, args ...string) int {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := u.command(ctx, args...)
	terminal, err := pty.Start(cmd)
	if err != nil {
		u.t.Fatal(err)
	}
	defer func() { _ = terminal.Close() }()
	screen := watch(terminal, stage, func() { _ = cmd.Process.Signal(syscall.SIGINT) })
	_ = cmd.Wait()
	text := <-screen
	if !strings.Contains(text, stage) {
		u.t.Fatalf("banger %s never reached the stage %s:\n%s", strings.Join(args, " "), stage, text)
	}
	code := cmd.ProcessState.ExitCode()
	if code != 0 && code != interrupted {
		u.t.Errorf("Ctrl-C in %s: want exit code %d, got %d:\n%s", stage, interrupted, code, text)
	}
	return code
}

// watch reads a terminal to its end, and calls found once when the words have appeared.
func watch(terminal *os.File, words string, found func()) <-chan string {
	text := make(chan string, 1)
	go func() {
		var screen bytes.Buffer
		buf := make([]byte, 4096)
		for seen := false; ; {
			n, err := terminal.Read(buf)
			screen.Write(buf[:n])
			if !seen && bytes.Contains(screen.Bytes(), []byte(words)) {
				seen = true
				found()
			}
			if err != nil { // EIO when the last process on the terminal has gone
				text <- screen.String()
				return
			}
		}
	}()
	return text
}

// TestKilled: kill -9 at any point of a pull leaves nothing that the next pull does not clean up.
func TestKilled(t *testing.T) {
	u := newUser(t)
	args := []string{"image", "pull", "oci:" + debianLayout(t) + ":bookworm", "--name", "x"}
	for delay := 300 * time.Millisecond; delay < 5*time.Second; delay += delay {
		cmd := u.command(context.Background(), args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	u.must(args...)
	u.leftovers()
}

// TestTwoPulls: two pulls of one image at once share one result.
func TestTwoPulls(t *testing.T) {
	u := newUser(t)
	args := []string{"image", "pull", "oci:" + debianLayout(t) + ":bookworm", "--name", "x"}
	results := make(chan result)
	for range 2 {
		go func() {
			var r result
			defer func() { results <- r }() // also when run gives the test up
			r = u.run(args...)
		}()
	}
	fresh := 0
	for range 2 {
		r := <-results
		if r.code != 0 {
			t.Errorf("one of two pulls failed: %v", r)
		}
		if !strings.Contains(r.stdout, "up to date") {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("want the work done once, it was done %d times", fresh)
	}
	u.leftovers()
}

// TestKilledRun: kill -9 of banger takes its VM along.
func TestKilledRun(t *testing.T) {
	u := newUser(t).withKernel()
	u.must("image", "pull", "oci:"+scratchLayout(t, u)+":v1", "--name", "scratch")
	cmd := u.command(context.Background(), "vm", "run", "--rm", "scratch")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	overlay := waitForFile(t, filepath.Join(u.home, "vms", "*", "console.log"))
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	t.Logf("killed while %s was written", overlay)
	time.Sleep(time.Second)
	if got := u.run("vm", "run", "--rm", "scratch"); got.code != 7 {
		t.Errorf("the run after the killed one: want exit code 7, got %v", got)
	}
	u.leftovers()
}

func waitForFile(t *testing.T, pattern string) string {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	t.Fatalf("nothing appeared at %s", pattern)
	return ""
}
