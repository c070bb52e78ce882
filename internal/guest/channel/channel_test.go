package channel

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var testMagic = [MagicSize]byte([]byte("0123456789abcdef"))

// wire is what a VMM does with a virtio-serial port: the guest's end is always there, hosts come and go, and what the
// guest writes while no host is connected waits.
type wire struct {
	vmm net.Conn // the VMM's side of the guest's end

	mu   sync.Mutex
	cond *sync.Cond
	host net.Conn // the VMM's side of the host's end
}

// newWire returns a wire and its guest's end.
func newWire(t *testing.T) (*wire, net.Conn) {
	t.Helper()
	guest, vmm := net.Pipe()
	w := &wire{vmm: vmm}
	w.cond = sync.NewCond(&w.mu)
	t.Cleanup(func() {
		_ = guest.Close()
		_ = vmm.Close()
		w.connect(nil)
	})
	go w.fromGuest()
	return w, guest
}

func (w *wire) connect(host net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.host = host
	w.cond.Broadcast()
}

func (w *wire) fromGuest() {
	buffer := make([]byte, 8<<10)
	for {
		n, err := w.vmm.Read(buffer)
		if err != nil {
			return
		}
		w.mu.Lock()
		for w.host == nil {
			w.cond.Wait()
		}
		host := w.host
		w.mu.Unlock()
		_, _ = host.Write(buffer[:n])
	}
}

// dial connects a new host, which takes the place of the one before.
func (w *wire) dial(t *testing.T) net.Conn {
	t.Helper()
	host, vmm := net.Pipe()
	t.Cleanup(func() { _ = host.Close() })
	w.connect(vmm)
	go func() { _, _ = io.Copy(w.vmm, vmm) }()
	return host
}

func (w *wire) session(t *testing.T) *Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := Dial(ctx, w.dial(t), testMagic)
	if err != nil {
		t.Fatalf("dialling the guest: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func echo(c net.Conn) {
	defer func() { _ = c.Close() }()
	_, _ = io.Copy(c, c)
}

func serve(port Port, handler func(net.Conn)) <-chan error {
	done := make(chan error, 1)
	go func() { done <- Serve(port, testMagic, handler) }()
	return done
}

// checkEcho sends size bytes on a new stream and expects them back.
func checkEcho(t *testing.T, s *Session, size int) {
	t.Helper()
	stream, err := s.Open(t.Context())
	if err != nil {
		t.Fatalf("opening a stream: %v", err)
	}
	defer func() { _ = stream.Close() }()
	want := bytes.Repeat([]byte("some data. "), size/11+1)[:size]
	go func() { _, _ = stream.Write(want) }()
	got := make([]byte, size)
	_ = stream.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(stream, got); err != nil {
		t.Fatalf("reading the echo of %d bytes: %v", size, err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the echo of %d bytes differs", size)
	}
}

func TestStreams(t *testing.T) {
	w, guest := newWire(t)
	serve(guest, echo)
	s := w.session(t)
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() { checkEcho(t, s, 1+i*100_000) })
	}
	group.Wait()
}

// TestDialBeforeGuest: the host dials before there is anybody, as it does while the VM boots.
func TestDialBeforeGuest(t *testing.T) {
	w, guest := newWire(t)
	time.AfterFunc(700*time.Millisecond, func() { serve(guest, echo) })
	checkEcho(t, w.session(t), 1000)
}

// TestReconnect: a host that leaves in the middle of a transfer leaves both directions in the middle of a frame.
func TestReconnect(t *testing.T) {
	w, guest := newWire(t)
	serve(guest, echo)
	for range 50 {
		s := w.session(t)
		for range 4 {
			stream, err := s.Open(t.Context())
			if err != nil {
				t.Fatalf("opening a stream: %v", err)
			}
			go func() { _, _ = io.Copy(stream, endless{}) }()
			go func() { _, _ = io.Copy(io.Discard, stream) }()
		}
		time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
		_ = s.conn.Close() // as a killed host does: without a word
	}
	checkEcho(t, w.session(t), 100_000)
}

// endless is a reader without an end.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// TestNewHostEndsOldStreams: handlers learn that their host is gone at the latest when another one comes.
func TestNewHostEndsOldStreams(t *testing.T) {
	w, guest := newWire(t)
	ended := make(chan error, 1)
	serve(guest, func(c net.Conn) {
		_, err := c.Read(make([]byte, 1))
		ended <- err
	})
	first := w.session(t)
	if _, err := first.Open(t.Context()); err != nil {
		t.Fatalf("opening a stream: %v", err)
	}
	time.Sleep(50 * time.Millisecond) // the stream reaches the guest
	w.session(t)
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the stream of the first host had data, want an error")
		}
	case <-time.After(30 * time.Second):
		t.Error("the stream of the first host is still open 30 s after the second host came")
	}
}

// TestCloseEndsStreams: a host that closes its session in order ends its streams at once.
func TestCloseEndsStreams(t *testing.T) {
	w, guest := newWire(t)
	ended := make(chan struct{})
	serve(guest, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1))
		close(ended)
	})
	s := w.session(t)
	if _, err := s.Open(t.Context()); err != nil {
		t.Fatalf("opening a stream: %v", err)
	}
	time.Sleep(50 * time.Millisecond)
	if err := s.Close(); err != nil {
		t.Errorf("closing the session: %v", err)
	}
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("the guest's stream is still open 30 s after the host closed the session")
	}
}

// TestSlowHost: what the guest wrote on a stream that it has closed waits for a host that takes its time, as one does whose
// user reads the output page by page.
func TestSlowHost(t *testing.T) {
	inTheirTime(t, func(t *testing.T) {
		want := bytes.Repeat([]byte("some data. "), 10_000) // less than the window, so that it is all sent
		w, guest := newWire(t)
		serve(guest, func(c net.Conn) {
			_, _ = c.Write(want)
			_ = c.Close()
		})
		stream, err := w.session(t).Open(t.Context())
		if err != nil {
			t.Fatalf("opening a stream: %v", err)
		}
		time.Sleep(24 * time.Hour)
		got, err := io.ReadAll(stream)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("a day later %d bytes of %d can be read, error %v", len(got), len(want), err)
		}
		_ = stream.Close()
	})
}

// inTheirTime runs the rest of a test where time passes as soon as everybody waits for it. That is a process of its own, since
// yamux hands timers from one session to the next.
func inTheirTime(t *testing.T, test func(*testing.T)) {
	t.Helper()
	const marker = "BANGER_TEST_TIME"
	if os.Getenv(marker) != "" {
		synctest.Test(t, test)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), marker+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in a time of its own: %v\n%s", err, out)
	}
}

// TestAgentRestart: the host's session ends when the agent begins anew, and a new one works.
func TestAgentRestart(t *testing.T) {
	w, guest := newWire(t)
	failing := &failingPort{Conn: guest, fail: make(chan struct{})}
	done := serve(failing, echo)
	s := w.session(t)
	checkEcho(t, s, 1000)
	failing.stop()
	if err := <-done; err == nil {
		t.Fatal("Serve returned nil, want the error of its port")
	}
	_ = guest.SetReadDeadline(time.Time{})
	serve(guest, echo)
	select {
	case <-s.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the host's session is still open 30 s after the agent began anew")
	}
	if err := s.Err(); !errors.Is(err, errAgentGone) {
		t.Errorf("the session's error is %v, want %v", err, errAgentGone)
	}
	checkEcho(t, w.session(t), 1000)
}

// failingPort is a port whose reads fail from some time on, as those of a killed agent do.
type failingPort struct {
	net.Conn
	fail chan struct{}
}

func (p *failingPort) stop() {
	close(p.fail)
	_ = p.SetReadDeadline(time.Unix(1, 0))
}

func (p *failingPort) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	select {
	case <-p.fail:
		return 0, io.ErrClosedPipe
	default:
		return n, err
	}
}

// TestStuckWrite: a write that never wakes up, as the kernel's driver can lose a wakeup, is given up when a host dials
// again.
func TestStuckWrite(t *testing.T) {
	w, guest := newWire(t)
	stuck := &stuckPort{Conn: guest, released: make(chan struct{})}
	serve(stuck, echo)
	s := w.session(t)
	checkEcho(t, s, 1000)
	stuck.stick()
	stream, err := s.Open(t.Context())
	if err != nil {
		t.Fatalf("opening a stream: %v", err)
	}
	_, _ = stream.Write([]byte("no answer will come"))
	time.Sleep(50 * time.Millisecond) // the answer gets stuck
	checkEcho(t, w.session(t), 1000)
}

// stuckPort is a port whose writes wait for their deadline once stick was called.
type stuckPort struct {
	net.Conn
	mu       sync.Mutex
	stuck    bool
	released chan struct{}
}

func (p *stuckPort) stick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stuck = true
}

func (p *stuckPort) Write(b []byte) (int, error) {
	p.mu.Lock()
	stuck := p.stuck
	p.mu.Unlock()
	if stuck {
		<-p.released
		return 0, os.ErrDeadlineExceeded
	}
	return p.Conn.Write(b)
}

func (p *stuckPort) SetWriteDeadline(end time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stuck && !end.IsZero() {
		p.stuck = false
		close(p.released)
	}
	return nil
}

// TestDialIgnoresStale: what an earlier session left in the pipe, an answer to its host included, is not ours.
func TestDialIgnoresStale(t *testing.T) {
	host, guest := net.Pipe()
	defer func() { _ = guest.Close() }()
	go func() {
		buffer := make([]byte, recordSize)
		if _, err := io.ReadFull(guest, buffer); err != nil {
			return
		}
		syn, _ := decode(buffer)
		foreign := record{kind: kindACK, nonce: nonce{1, 2, 3}}.encode(testMagic)
		hello := record{kind: kindHello}.encode(testMagic)
		ack := record{kind: kindACK, nonce: syn.nonce}.encode(testMagic)
		stale := bytes.Repeat([]byte{0, 1, 0xff}, 50_000)
		for _, b := range [][]byte{stale, foreign, stale, foreign[:20], hello, ack[:MagicSize], ack} {
			_, _ = guest.Write(b)
		}
		_, _ = io.Copy(io.Discard, guest)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := Dial(ctx, host, testMagic)
	if err != nil {
		t.Fatalf("dialling with stale bytes in the pipe: %v", err)
	}
	select {
	case <-s.Done():
		t.Errorf("the session ended at once: %v", s.Err())
	case <-time.After(100 * time.Millisecond):
	}
	_ = s.Close()
}

// TestForeignAnswer: the answer to another nonce does not begin a session.
func TestForeignAnswer(t *testing.T) {
	host, guest := net.Pipe()
	defer func() { _ = guest.Close() }()
	go func() { _, _ = io.Copy(io.Discard, guest) }()
	go func() { _, _ = guest.Write(record{kind: kindACK, nonce: nonce{9}}.encode(testMagic)) }()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, host, testMagic); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dialling a guest that answers another host: error %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestDialErrors(t *testing.T) {
	t.Run("the guest never answers", func(t *testing.T) {
		host, guest := net.Pipe() // nobody reads: even the write of the request waits
		defer func() { _ = guest.Close() }()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := Dial(ctx, host, testMagic); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want %v", err, context.DeadlineExceeded)
		}
		if _, err := host.Write([]byte{0}); err == nil {
			t.Error("the connection is still open, want it closed by Dial")
		}
	})
	t.Run("the VMM goes away", func(t *testing.T) {
		host, guest := net.Pipe()
		time.AfterFunc(20*time.Millisecond, func() { _ = guest.Close() })
		if _, err := Dial(t.Context(), host, testMagic); err == nil {
			t.Error("no error, want one")
		}
	})
}

// TestServeRepeatedRequest: a host repeats its request until it has the answer, so more of them may follow.
func TestServeRepeatedRequest(t *testing.T) {
	w, guest := newWire(t)
	serve(guest, echo)
	host := w.dial(t)
	go func() {
		for range 3 {
			_, _ = host.Write(record{kind: kindSYN, nonce: nonce{7}}.encode(testMagic))
		}
	}()
	s := &scanner{magic: testMagic}
	acks := 0
	buffer := make([]byte, 1000)
	for {
		_ = host.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := host.Read(buffer)
		if err != nil {
			break
		}
		for piece := buffer[:n]; len(piece) > 0; {
			_, r, rest, found := s.next(piece)
			if found && r.kind == kindACK && r.nonce == (nonce{7}) {
				acks++
			}
			piece = rest
		}
	}
	if acks != 1 {
		t.Errorf("the guest answered a request that was repeated %d times, want once: a later answer would stand between the frames", acks)
	}
}

func TestOpenAfterEnd(t *testing.T) {
	w, guest := newWire(t)
	serve(guest, echo)
	s := w.session(t)
	_ = s.Close()
	if _, err := s.Open(t.Context()); err == nil {
		t.Error("opening a stream of a closed session gave no error")
	}
	if s.Err() == nil {
		// The reader ends a moment later than Close returns.
		<-s.ended
	}
}

func TestDecode(t *testing.T) {
	good := record{kind: kindACK, nonce: nonce{1, 2, 3, 4, 5, 6, 7, 8}}
	b := good.encode(testMagic)
	if len(b) != recordSize {
		t.Errorf("a record has %d bytes, want %d", len(b), recordSize)
	}
	if got, ok := decode(b); !ok || got != good {
		t.Errorf("decoding an encoded record gave %v, %v, want %v, true", got, ok, good)
	}
	if _, ok := decode(b[:recordSize-1]); ok {
		t.Error("a record without its last byte was accepted")
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x40
		if _, ok := decode(bad); ok {
			t.Errorf("a record with a wrong byte %d was accepted", i)
		}
	}
	for _, k := range []kind{0, kindEnd + 1} {
		if _, ok := decode(record{kind: k}.encode(testMagic)); ok {
			t.Errorf("a record of kind %d was accepted", k)
		}
	}
	if crc32.Size != 4 {
		t.Error("the documented length of a record is wrong")
	}
}

// scanAll feeds pieces to a scanner and returns what it found.
func scanAll(pieces [][]byte) (data []byte, records []record) {
	s := scanner{magic: testMagic}
	for _, piece := range pieces {
		for len(piece) > 0 {
			d, r, rest, found := s.next(piece)
			data = append(data, d...)
			if found {
				records = append(records, r)
			}
			piece = rest
		}
	}
	return data, records
}

// FuzzScanner: however a stream is cut, the same records are found, and nothing that stands outside them is lost.
func FuzzScanner(f *testing.F) {
	syn := record{kind: kindSYN, nonce: nonce{5}}.encode(testMagic)
	f.Add([]byte("before"), syn, []byte("after"), uint8(3))
	f.Add(syn[:20], syn, testMagic[:], uint8(1))
	f.Add(append(testMagic[:15:15], testMagic[:]...), syn, syn, uint8(16))
	f.Fuzz(func(t *testing.T, before, record, after []byte, step uint8) {
		stream := bytes.Join([][]byte{before, record, after}, nil)
		wantData, want := scanAll([][]byte{stream})
		var pieces [][]byte
		for rest := stream; len(rest) > 0; {
			n := min(len(rest), int(step)+1)
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		gotData, got := scanAll(pieces)
		if len(got) != len(want) {
			t.Fatalf("in pieces of %d bytes %d records were found, want %d", int(step)+1, len(got), len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("record %d in pieces is %v, want %v", i, got[i], want[i])
			}
		}
		if len(wantData)+len(want)*recordSize != len(stream) {
			t.Errorf("data of %d bytes and %d records do not add up to %d bytes", len(wantData), len(want), len(stream))
		}
		if len(gotData) < len(wantData) {
			t.Errorf("in pieces the data has %d bytes, want at least %d", len(gotData), len(wantData))
		}
	})
}

func TestFindPort(t *testing.T) {
	sysfs := t.TempDir()
	for dir, name := range map[string]string{"vport0p1": "other\n", "vport0p2": PortName + "\n"} {
		if err := os.Mkdir(filepath.Join(sysfs, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sysfs, dir, "name"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := FindPort(sysfs, "/dev", PortName); err != nil || got != "/dev/vport0p2" {
		t.Errorf("finding %q gave %q, %v, want /dev/vport0p2", PortName, got, err)
	}
	for _, c := range []struct{ sysfs, name string }{{sysfs, "absent"}, {filepath.Join(sysfs, "absent"), PortName}} {
		if _, err := FindPort(c.sysfs, "/dev", c.name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("finding %q in %q: error %v, want one that there is no such file", c.name, c.sysfs, err)
		}
	}
}

// TestPort checks the port's own code on a FIFO, which a poller can wait for as well.
func TestPort(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	reader, writer := newPort(t, r), newPort(t, w)
	want := bytes.Repeat([]byte("x"), 200_000) // more than the pipe holds and than one write of the driver takes
	go func() { _, _ = writer.Write(want) }()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(reader, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("reading %d bytes: error %v, equal %v", len(want), err, bytes.Equal(got, want))
	}
	time.AfterFunc(20*time.Millisecond, func() { _ = writer.SetWriteDeadline(time.Unix(1, 0)) })
	n, err := writer.Write(want)
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 {
		t.Errorf("a write that nobody reads, ended by its deadline, gave %d, %v, want some bytes and %v", n, err, os.ErrDeadlineExceeded)
	}
}

func newPort(t *testing.T, file *os.File) *port {
	t.Helper()
	raw, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return &port{file: file, raw: raw}
}
