package qemu

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	guestexec "github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/machine"
)

// maxAgent is how much memory the agent may take in the guest, in bytes.
const maxAgent = 20 << 20

// TestGuestAsMachine: the clock, the randomness, the file systems and the figures of a real guest.
func TestGuestAsMachine(t *testing.T) {
	m := start(t, theKit(t).spec(t))
	t.Run("clock", func(t *testing.T) {
		ctx := t.Context()
		if _, _, err := machine.SetClock(ctx, m.Open); err != nil {
			t.Fatal(err)
		}
		in(t, m, nil, "/bin/guesttool", "turn-clock", "-3h")
		behind, stepped, err := machine.SetClock(ctx, m.Open)
		if err != nil || !stepped || (behind-3*time.Hour).Abs() > time.Second {
			t.Errorf("a clock that was turned back by 3 h: %v behind, stepped %v, %v", behind, stepped, err)
		}
		behind, stepped, err = machine.SetClock(ctx, m.Open)
		if err != nil || stepped || behind.Abs() > time.Second {
			t.Errorf("afterwards: %v behind, stepped %v, %v, want it right", behind, stepped, err)
		}
	})
	t.Run("seed and sync", func(t *testing.T) {
		random := make([]byte, 64)
		_, _ = rand.Read(random)
		if err := machine.Seed(t.Context(), stream(t, m), random); err != nil {
			t.Error(err)
		}
		if err := machine.Sync(t.Context(), stream(t, m)); err != nil {
			t.Error(err)
		}
	})
	t.Run("stats", func(t *testing.T) {
		before := stats(t, m)
		in(t, m, nil, "/bin/guesttool", "fill", "4", "/four")
		_ = machine.Sync(t.Context(), stream(t, m))
		after := stats(t, m)
		t.Logf("%+v", after)
		memory := uint64(m.spec.MemoryMiB) << 20
		if after.CPUs != m.spec.CPUs || after.MemoryTotal > memory || after.MemoryTotal < memory/2 {
			t.Errorf("the guest says it has %d CPUs and %d bytes", after.CPUs, after.MemoryTotal)
		}
		if after.DiskWritten-before.DiskWritten < 4<<20 || before.RootFree-after.RootFree < 4<<20 ||
			after.CPUBusy <= before.CPUBusy || after.Uptime <= before.Uptime {
			t.Errorf("writing 4 MiB changed the figures from\n%+v to\n%+v", before, after)
		}
	})
	t.Run("memory of the agent", func(t *testing.T) {
		t.Logf("at first: %d KiB", stats(t, m).AgentMemory>>10)
		var transfers sync.WaitGroup
		for range 16 {
			transfers.Go(func() {
				command := guestexec.Command{Argv: []string{"/bin/guesttool", "copy"}, Stdin: true}
				data := bytes.NewReader(make([]byte, 4<<20))
				code, err := guestexec.Run(t.Context(), stream(t, m), command, data, io.Discard, io.Discard, nil, nil)
				if code != 0 || err != nil {
					t.Errorf("copying gave %d, %v", code, err)
				}
			})
		}
		transfers.Wait()
		if got := stats(t, m).AgentMemory; got > maxAgent {
			t.Errorf("after 16 transfers at once the agent has %d KiB, want %d at most", got>>10, maxAgent>>10)
		} else {
			t.Logf("after 16 transfers at once: %d KiB", got>>10)
		}
	})
}

func stream(t *testing.T, m *Machine) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := m.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func stats(t *testing.T, m *Machine) machine.Stats {
	t.Helper()
	s, err := machine.ReadStats(t.Context(), stream(t, m))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
