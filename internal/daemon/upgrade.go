package daemon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/fault"
)

// asksFor reports whether the client wants the connection to become one of this protocol.
func (c *call) asksFor(protocol string) bool {
	connection := strings.ToLower(strings.Join(c.r.Header.Values("Connection"), ","))
	return strings.Contains(connection, "upgrade") && c.r.Header.Get("Upgrade") == protocol
}

// mustAskFor refuses a client that does not want the connection to become one of this protocol.
func (c *call) mustAskFor(protocol string) error {
	if c.asksFor(protocol) {
		return nil
	}
	c.w.Header().Set("Connection", "Upgrade")
	c.w.Header().Set("Upgrade", protocol)
	err := fmt.Errorf("%s answers by another protocol alone", c.r.URL.Path)
	hint := "send Connection: Upgrade and Upgrade: " + protocol
	return status{error: fault.New(fault.Usage, err, hint), code: http.StatusUpgradeRequired}
}

// upgrade makes the connection one of this protocol. The daemon's Serve waits for release, and the connection is closed
// when the daemon stops.
func (c *call) upgrade(protocol string) (u *upgraded, release func(), err error) {
	ctx := c.ctx() // of the connection's server; the client's end does not end it any more
	conn, buffer, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	c.begun = true
	c.server.streams.Add(1)
	early, _ := buffer.Reader.Peek(buffer.Reader.Buffered())
	all := io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn)
	u = &upgraded{Conn: conn, in: bufio.NewReader(all)}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	release = func() {
		stop()
		_ = conn.Close()
		c.server.streams.Done()
	}
	head := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n"
	if _, err := io.WriteString(conn, head); err != nil {
		release()
		return nil, nil, err
	}
	return u, release, nil
}

// upgraded is a connection that no longer is one of HTTP.
type upgraded struct {
	net.Conn
	in *bufio.Reader
}

// Read reads what the client sent after its request.
func (u *upgraded) Read(b []byte) (int, error) { return u.in.Read(b) }

// watch calls gone when the client hangs up before stop is called. What the client sends meanwhile is kept.
func (u *upgraded) watch(gone func()) (stop func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if _, err := u.in.Peek(1); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			gone()
		}
	}()
	return func() {
		_ = u.SetReadDeadline(time.Unix(1, 0))
		<-ended
		_ = u.SetReadDeadline(time.Time{})
	}
}

// lingerLimit is how long a client may take to hang up when its stream has ended.
const lingerLimit = 5 * time.Second

// join copies both ways until one side closes: closing is how a stream ends, for both. What the guest says before it
// closes reaches the client in any case, even if the client is still sending.
func join(client *upgraded, guest net.Conn) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		to := &receiver{Writer: guest}
		if _, err := io.Copy(to, client); err != nil && to.refused {
			_, _ = io.Copy(io.Discard, client) // the guest has ended; its last words may be on their way
		}
		_ = guest.Close()
	}()
	_, _ = io.Copy(client.Conn, guest)
	// A connection that is closed with something unread ends with an error instead of an end.
	if half, ok := client.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_ = client.SetReadDeadline(time.Now().Add(lingerLimit))
	_ = guest.Close()
	<-gone
	_ = client.Close()
}

// receiver notes whether it was the writing that failed.
type receiver struct {
	io.Writer
	refused bool
}

// Write writes b.
func (r *receiver) Write(b []byte) (int, error) {
	n, err := r.Writer.Write(b)
	r.refused = r.refused || err != nil
	return n, err
}
