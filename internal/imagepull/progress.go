package imagepull

import (
	"fmt"
	"math"
	"os"
	"syscall"
	"time"

	"github.com/docker/go-units"
)

// Step is one step of the recipe, for showing progress.
type Step struct {
	Name    string         // one of the five, or what the caller of Steps.Run calls it
	Detail  string         // what the step made or, while it runs, how far it is
	Done    bool           // whether the step has ended
	Elapsed time.Duration  // how long it took
	Amount  *Amount        // how much of its work is done, where that is known while it runs
	Layer   *LayerProgress // how far one layer is, of which alone the report is then
}

// Amount is how much of some work is done.
type Amount struct {
	Bytes int64         `json:"bytes"`
	Total int64         `json:"total,omitempty"`   // bytes; 0: not known
	Rate  int64         `json:"rate,omitempty"`    // bytes in a second, lately; 0: not known
	Left  time.Duration `json:"left_ns,omitempty"` // until it is done, at this rate; 0: not known
}

// LayerState is what happens to a layer.
type LayerState string

// The states of a layer, in their order. One that exists has been neither downloaded nor unpacked.
const (
	LayerWaiting     LayerState = "waiting"     // for its turn, or for somebody else who fetches it
	LayerDownloading LayerState = "downloading" // and unpacked meanwhile
	LayerUnpacking   LayerState = "unpacking"   // all of it is here; the rest is unpacked, and the digests compared
	LayerDone        LayerState = "done"        // it is in the store, with the right digests
	LayerExists      LayerState = "exists"      // it was in the store already
)

// LayerProgress is how far a layer of the image is. The amount is that of the blob, as the source has it.
type LayerProgress struct {
	Digest string     `json:"digest"` // of the blob; the diff_id where the source does not know it
	DiffID string     `json:"diff_id"`
	State  LayerState `json:"state"`
	Amount
}

// Steps runs steps and reports them.
type Steps struct {
	Now func() time.Time
	// Report is told when a step begins (Elapsed is 0, Done false), now and then how far it is, and when it has ended. It is
	// called from one goroutine at a time.
	Report func(Step)
}

// Run runs one step, of the recipe or of what follows it, and reports its beginning and end. run returns what the step
// made, in words.
func (s Steps) Run(name string, run func() (string, error)) error {
	start := s.Now()
	s.Report(Step{Name: name})
	detail, err := run()
	if err != nil {
		return err
	}
	s.Report(Step{Name: name, Detail: detail, Done: true, Elapsed: s.Now().Sub(start)})
	return nil
}

// announceAfter is how long something lasts before it is worth a word.
const announceAfter = 500 * time.Millisecond

// Announce reports that something goes on that is no step of its own, if it lasts for a while: until the returned function
// is called, after which nothing of it is reported.
func (s Steps) Announce(name, detail string) (stop func()) {
	said := make(chan struct{})
	timer := time.AfterFunc(announceAfter, func() {
		defer close(said)
		s.Report(Step{Name: name, Detail: detail})
	})
	return func() {
		if !timer.Stop() {
			<-said
		}
	}
}

// RunOnFile is Run for a step that writes total bytes to the file at path, which shows how far it is: by the space that the
// file takes.
func (s Steps) RunOnFile(name, path string, total int64, run func() (string, error)) error {
	return s.Run(name, func() (string, error) {
		var rate rate
		stop := every(refresh, func() {
			amount := rate.amount(s.Now(), min(allocated(path), total), total)
			s.Report(Step{Name: name, Detail: amount.of(), Amount: &amount})
		})
		defer stop()
		return run()
	})
}

// allocated returns the bytes that a file takes on the disk; 0 for one that is not there.
func allocated(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.Size()
	}
	return stat.Blocks * 512 // the unit of st_blocks (stat(2))
}

// refresh is how often it is reported how far something is.
const refresh = 200 * time.Millisecond

// every calls do again and again until the returned function is called, which waits for the last call.
func every(interval time.Duration, do func()) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-quit:
				return
			case <-ticker.C:
				do()
			}
		}
	}()
	return func() { close(quit); <-ended }
}

// of is the amount in words.
func (a Amount) of() string {
	if a.Total == 0 {
		return units.HumanSize(float64(a.Bytes))
	}
	return fmt.Sprintf("%s of %s", units.HumanSize(float64(a.Bytes)), units.HumanSize(float64(a.Total)))
}

const (
	// rateWindow is the time whose bytes decide a rate: long enough for a steady figure, short enough to follow the line.
	rateWindow = 5 * time.Second
	// rateAfter is the time before which no rate is known.
	rateAfter = 2 * refresh
)

// rate measures how fast something goes on, from how far it is at some times.
type rate struct {
	marks []mark // of the last rateWindow, the oldest first
}

type mark struct {
	at    time.Time
	bytes int64
}

// amount notes how far it is now, and returns that with the rate. Work that has begun again has a new rate.
func (r *rate) amount(now time.Time, bytes, total int64) Amount {
	if n := len(r.marks); n > 0 && bytes < r.marks[n-1].bytes {
		r.marks = nil
	}
	r.marks = append(r.marks, mark{now, bytes})
	for len(r.marks) > 2 && now.Sub(r.marks[0].at) > rateWindow {
		r.marks = r.marks[1:]
	}
	amount := Amount{Bytes: bytes, Total: max(0, total)}
	took := now.Sub(r.marks[0].at)
	if took < rateAfter {
		return amount
	}
	amount.Rate = int64(float64(bytes-r.marks[0].bytes) / took.Seconds())
	if left := amount.Total - bytes; amount.Rate > 0 && left > 0 {
		// A total can be any number that a registry says, and is never done with then.
		if seconds := float64(left) / float64(amount.Rate); seconds < math.MaxInt64/float64(time.Second) {
			amount.Left = time.Duration(seconds * float64(time.Second))
		}
	}
	return amount
}
