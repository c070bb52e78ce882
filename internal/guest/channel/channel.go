// Package channel carries many independent streams between the host and the guest's agent over one byte pipe: a
// virtio-serial port of the guest, which is a Unix socket of the VMM on the host.
//
// The pipe has no connections of its own. Either end can go away and come back in the middle of a frame, and what the
// pipe held then reaches the next one. A handshake of records (record.go) therefore finds the point where both sides
// begin anew; from there on yamux multiplexes, with flow control for each stream. docs/guest-protocol.md is the
// specification.
package channel

import (
	"errors"
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// MagicSize is the length in bytes of the magic that begins each record.
const MagicSize = 16

// The agent's end has no session: it was restarted, or its session broke. Every stream is lost, and only a new Dial
// helps.
var errAgentGone = errors.New("the guest's agent was restarted")

// errGuestRules is a guest that does what no agent does, see filter.
var errGuestRules = errors.New("the guest does not keep to the channel's rules")

// windowSize is how many bytes of one stream may be under way. yamux's own 256 KiB throttles bulk data.
const windowSize = 1 << 20

// writeTimeout is how long yamux lets a write wait for the pipe before it gives the session up. The other side may
// be stopped (a suspended host, a debugger), so it is long.
const writeTimeout = 10 * time.Minute

// closeTimeout is how long the host waits for a guest to close a stream that it has closed itself, before it resets it: a guest
// that never does would fill the host's memory. The guest waits for the host without a limit. With the reset goes what the
// other side has not read yet, and a host may take its time to read the end of a command's output.
const closeTimeout = 5 * time.Minute

// muxConfig returns yamux's parameters. Keep-alives are off: a paused VM is no error.
func muxConfig(closeTimeout time.Duration) *yamux.Config {
	c := yamux.DefaultConfig()
	c.AcceptBacklog = 1024
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = writeTimeout
	c.StreamOpenTimeout = 0
	c.StreamCloseTimeout = closeTimeout // 0: none
	c.MaxStreamWindowSize = windowSize
	c.LogOutput = io.Discard
	return c
}

// pipe is the connection that yamux sees: what the demultiplexer finds between the records comes in, writes go
// straight to the port.
type pipe struct {
	*io.PipeReader
	write func([]byte) (int, error)
	close func()
}

// Write writes to the port.
func (p *pipe) Write(b []byte) (int, error) { return p.write(b) }

// Close ends the reading side and tells the owner.
func (p *pipe) Close() error {
	err := p.PipeReader.Close()
	p.close()
	return err
}
