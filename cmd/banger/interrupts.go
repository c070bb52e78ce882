package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// errInterrupted is why a context ends when the user presses Ctrl-C.
var errInterrupted = errors.New("interrupted")

// impatience is how many signals in a row, each within patience of the last, end banger even while they are passed on to
// a guest that ignores them.
const (
	impatience = 3
	patience   = 2 * time.Second
)

// interrupts decides what SIGINT, SIGTERM and SIGHUP do: they cancel what banger does or, while a command runs in a
// guest, they are passed on to it.
type interrupts struct {
	caught chan os.Signal
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	forward chan<- syscall.Signal // nil: cancel
	count   int
	last    time.Time

	pipe chan os.Signal // takes SIGPIPE, see catchInterrupts
}

// catchInterrupts returns a context that ends with errInterrupted at such a signal.
func catchInterrupts(ctx context.Context) (context.Context, *interrupts) {
	ctx, cancel := context.WithCancelCause(ctx)
	i := &interrupts{caught: make(chan os.Signal, 4), cancel: cancel, pipe: make(chan os.Signal, 1)}
	// With somebody to take SIGPIPE, writing to a closed pipe is an error like any other, after which banger cleans up
	// (os/signal). Ignoring it instead would have the programs that banger starts ignore it as well.
	signal.Notify(i.pipe, syscall.SIGPIPE)
	signal.Notify(i.caught, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for s := range i.caught {
			i.handle(s.(syscall.Signal))
		}
	}()
	return ctx, i
}

func (i *interrupts) handle(s syscall.Signal) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if now := time.Now(); now.Sub(i.last) > patience {
		i.count, i.last = 1, now
	} else {
		i.count, i.last = i.count+1, now
	}
	if i.forward == nil || i.count >= impatience {
		i.cancel(errInterrupted)
		return
	}
	select {
	case i.forward <- s:
	default: // the guest is that far behind: the next signal will do
	}
}

// forwardTo passes signals on to a guest from now on.
func (i *interrupts) forwardTo(guest chan<- syscall.Signal) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.forward, i.count = guest, 0
}

func (i *interrupts) stop() {
	signal.Stop(i.pipe)
	signal.Stop(i.caught)
	close(i.caught)
	i.cancel(nil)
}
