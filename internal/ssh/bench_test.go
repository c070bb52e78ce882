package ssh

import (
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"testing"
)

// BenchmarkBulk moves 512 MB each way through OpenSSH's client.
func BenchmarkBulk(b *testing.B) {
	const size = 512 << 20
	c := newClient(b)
	for name, run := range map[string]func() *osexec.Cmd{
		"output": func() *osexec.Cmd {
			return c.command(b.Context(), "ssh", "-n", "vm.banger", fmt.Sprintf("head -c %d /dev/zero", size))
		},
		"input": func() *osexec.Cmd {
			cmd := c.command(b.Context(), "ssh", "vm.banger", "cat >/dev/null")
			zeros, err := os.Open("/dev/zero")
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = zeros.Close() })
			cmd.Stdin = io.LimitReader(zeros, size)
			return cmd
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				cmd := run()
				cmd.Stdout = nil // /dev/null
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCommand runs true: over a connection of its own, and over one that is there.
func BenchmarkCommand(b *testing.B) {
	for name, options := range map[string][]string{"alone": nil, "shared": {"ControlMaster auto", "ControlPersist 60"}} {
		b.Run(name, func(b *testing.B) {
			c := newClient(b, options...)
			for b.Loop() {
				c.ssh("true")
			}
			if options != nil {
				c.run(nil, "ssh", "-O", "exit", "vm.banger")
			}
		})
	}
}
