// Command banger-guest is the part of banger that runs inside a VM: as the initramfs's init, as process 1 of the root
// file system, and as the agent that the host talks to. Package agent has them all.
package main

import (
	"os"

	"github.com/banger-vm/banger/internal/guest/agent"
)

func main() {
	os.Exit(agent.Main(os.Args, os.Getpid()))
}
