package machine

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// Guest is the agent's half. Its value is immutable and safe for concurrent use.
type Guest struct {
	proc fs.FS // /proc
	root string

	now  func() time.Time
	step func(time.Duration) error // of the clock
	seed func([]byte) error
	sync func()
}

// NewGuest returns the half that answers for the machine that it runs on.
func NewGuest() *Guest {
	return &Guest{proc: os.DirFS("/proc"), root: "/", now: time.Now, step: stepClock, seed: addEntropy, sync: unix.Sync}
}

// Handlers returns what answers this package's requests.
func (g *Guest) Handlers() frame.Router {
	return frame.Router{doClock: g.clock, doSeed: g.addSeed, doSync: g.writeAll, doStats: g.stats}
}

func (g *Guest) clock(stream net.Conn, args []byte) *frame.Refusal {
	var by step
	if refused := frame.Decode(args, &by); refused != nil {
		return refused
	}
	if by.Nanoseconds != 0 {
		if err := g.step(time.Duration(by.Nanoseconds)); err != nil {
			return frame.Refuse(frame.Failed, "setting the clock: %v", err)
		}
	}
	frame.Answer(stream, reading{g.now().UnixNano()})
	return nil
}

func (g *Guest) addSeed(stream net.Conn, args []byte) *frame.Refusal {
	var given seed
	if refused := frame.Decode(args, &given); refused != nil {
		return refused
	}
	if n := len(given.Bytes); n < minSeed || n > maxSeed {
		return frame.Refuse(frame.Refused, "a seed of %d bytes is not between %d and %d", n, minSeed, maxSeed)
	}
	if err := g.seed(given.Bytes); err != nil {
		return frame.Refuse(frame.Failed, "adding randomness: %v", err)
	}
	frame.Answer(stream, struct{}{})
	return nil
}

func (g *Guest) writeAll(stream net.Conn, _ []byte) *frame.Refusal {
	g.sync()
	frame.Answer(stream, struct{}{})
	return nil
}

func (g *Guest) stats(stream net.Conn, _ []byte) *frame.Refusal {
	stats, err := g.readStats()
	if err != nil {
		return frame.Refuse(frame.Failed, "reading the machine's figures: %v", err)
	}
	frame.Answer(stream, stats)
	return nil
}

// stepClock adds by to the clock at once. The kernel does the sum, so that nothing is lost between reading and setting
// (adjtimex(2), ADJ_SETOFFSET); the microseconds are never negative there.
func stepClock(by time.Duration) error {
	micros := by.Microseconds()
	seconds, rest := micros/1e6, micros%1e6
	if rest < 0 {
		seconds, rest = seconds-1, rest+1e6
	}
	_, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_SETOFFSET, Time: unix.Timeval{Sec: seconds, Usec: rest}})
	return err
}

// addEntropy is RNDADDENTROPY of random(4), which trusts every bit.
func addEntropy(random []byte) error {
	device, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = device.Close() }()
	var pool struct { // struct rand_pool_info of include/uapi/linux/random.h
		entropy int32 // bits
		size    int32 // bytes
		bytes   [maxSeed]byte
	}
	pool.entropy, pool.size = int32(8*len(random)), int32(len(random))
	copy(pool.bytes[:], random)
	_, _, failed := unix.Syscall(unix.SYS_IOCTL, device.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&pool)))
	runtime.KeepAlive(&pool)
	if failed != 0 {
		return fmt.Errorf("RNDADDENTROPY: %w", failed)
	}
	return nil
}
