// Command banger turns a container image into a bootable disk and boots it as a microVM, as an ordinary user.
package main

import (
	"context"
	"os"
	"runtime/debug"
)

// collectAt is by how many percent the heap may grow before it is collected (GOGC, unless the user sets it). A pull has
// the whole tree of an image in memory, of which little is garbage: with Go's own 100, half of the memory would
// be. With 25, a pull takes 3 % longer.
const collectAt = 50

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	os.Exit(run())
}

// run is main for the tests, which run banger inside their own process.
func run() int {
	ctx, interrupts := catchInterrupts(context.Background())
	defer interrupts.stop()
	return execute(ctx, os.Args[1:], system{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		lookupEnv: os.LookupEnv, uid: os.Getuid(), interrupts: interrupts,
	})
}
