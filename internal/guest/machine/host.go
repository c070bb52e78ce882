package machine

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// SetClock compares the guest's clock with the host's and steps it to the host's time when they surely differ by more
// than ClockTolerance. It returns by how much the guest's clock was behind, and whether it was stepped. open opens a
// stream to the agent.
//
// The difference is measured first and sent then, so that a channel that is slow makes a measurement vague and not a
// clock wrong. One that is too vague steps nothing; the next call may know better.
func SetClock(ctx context.Context, open func(context.Context) (net.Conn, error)) (behind time.Duration, stepped bool, err error) {
	before := time.Now()
	guest, err := askClock(ctx, open, 0)
	if err != nil {
		return 0, false, fmt.Errorf("reading the guest's clock: %w", err)
	}
	behind, vague := compare(before, time.Now(), guest)
	if behind.Abs() <= ClockTolerance+vague {
		return behind, false, nil
	}
	if _, err := askClock(ctx, open, behind); err != nil {
		return behind, false, fmt.Errorf("setting the guest's clock: %w", err)
	}
	return behind, true, nil
}

// compare returns how far guest, which was read between before and after, is behind, and by how much that may be wrong.
// The times are the wall clock's: the monotonic one stands still while the host sleeps.
func compare(before, after, guest time.Time) (behind, vague time.Duration) {
	vague = after.Round(0).Sub(before.Round(0)).Abs() / 2
	return before.Round(0).Add(vague).Sub(guest), vague
}

func askClock(ctx context.Context, open func(context.Context) (net.Conn, error), by time.Duration) (time.Time, error) {
	stream, err := open(ctx)
	if err != nil {
		return time.Time{}, err
	}
	var now reading
	if err := frame.Call(ctx, stream, doClock, step{by.Nanoseconds()}, &now); err != nil {
		return time.Time{}, err
	}
	return time.Unix(0, now.Nanoseconds), nil
}

// Seed adds 32 to 512 random bytes to the guest's kernel's randomness. It closes stream.
func Seed(ctx context.Context, stream net.Conn, random []byte) error {
	var nothing struct{}
	if err := frame.Call(ctx, stream, doSeed, seed{random}, &nothing); err != nil {
		return fmt.Errorf("seeding the guest's randomness: %w", err)
	}
	return nil
}

// Sync returns when the guest has written what its file systems hold to its disks (sync(2)). It closes stream.
func Sync(ctx context.Context, stream net.Conn) error {
	var nothing struct{}
	if err := frame.Call(ctx, stream, doSync, nil, &nothing); err != nil {
		return fmt.Errorf("writing the guest's file systems: %w", err)
	}
	return nil
}

// ReadStats asks how the guest is doing. It closes stream. The numbers are the guest's word.
func ReadStats(ctx context.Context, stream net.Conn) (Stats, error) {
	var stats Stats
	if err := frame.Call(ctx, stream, doStats, nil, &stats); err != nil {
		return Stats{}, fmt.Errorf("reading the guest's figures: %w", err)
	}
	return stats, nil
}
