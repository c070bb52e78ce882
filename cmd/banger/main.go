// Command banger turns a container image into a bootable disk and boots it as a microVM, as an ordinary user.
package main

import (
	"context"
	"os"
)

func main() {
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
