package ssh

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/banger-vm/banger/internal/guest/forward"
)

const (
	// maxArrivals is how many connections from the guest can be open in one SSH connection. Each costs the host and the
	// client memory, and it is the guest that makes them; more of them wait in the guest.
	maxArrivals = 256
	// listenLimit is how long the guest may take to listen. Requests after this one wait for its answer.
	listenLimit = 10 * time.Second
	// drainLimit is how long the guest may take to read what a client sent before it closed the channel.
	drainLimit = 10 * time.Second
)

// dialTCP serves a connection of the client to an address of the guest: -L, -D, -W and -J.
func (c *connection) dialTCP(offered ssh.NewChannel) {
	var asked directTCP
	err := ssh.Unmarshal(offered.ExtraData(), &asked)
	target, ok := address(asked.Host, asked.Port)
	if err != nil || !ok {
		_ = offered.Reject(ssh.ConnectionFailed, "that is no address")
		return
	}
	c.dial(offered, "tcp", target)
}

// dialUnix serves a connection of the client to a Unix socket of the guest.
func (c *connection) dialUnix(offered ssh.NewChannel) {
	var asked directUnix
	if ssh.Unmarshal(offered.ExtraData(), &asked) != nil || asked.Path == "" {
		_ = offered.Reject(ssh.ConnectionFailed, "that is no path")
		return
	}
	c.dial(offered, "unix", asked.Path)
}

func (c *connection) dial(offered ssh.NewChannel, network, target string) {
	conn, err := c.connect(network, target)
	if err != nil {
		_ = offered.Reject(ssh.ConnectionFailed, words(err))
		return
	}
	channel, requests, err := offered.Accept()
	if err != nil {
		conn.Abort()
		return
	}
	join(c.ctx, channel, requests, conn)
}

func (c *connection) connect(network, target string) (*forward.Conn, error) {
	stream, err := c.open(c.ctx)
	if err != nil {
		return nil, err
	}
	return forward.Connect(c.ctx, stream, network, target)
}

// listenTCP has the guest listen for the client (-R). A port of 0 is for the guest to choose, and is told to the client.
func (c *connection) listenTCP(payload []byte) (ok bool, reply []byte) {
	var asked forwardTCP
	if ssh.Unmarshal(payload, &asked) != nil {
		return false, nil
	}
	target, ok := listenAddress(asked)
	if !ok {
		return false, nil
	}
	limited, cancel := context.WithTimeout(c.ctx, listenLimit)
	defer cancel()
	l, err := forward.Listen(limited, c.open, "tcp", target)
	if err != nil {
		return false, nil
	}
	if asked.Port == 0 {
		if asked.Port, ok = chosenPort(l.Addr()); !ok {
			_ = l.Close()
			return false, nil
		}
		reply = ssh.Marshal(forwardReply{asked.Port})
	}
	c.listen(listenKey("tcp", asked.Host, asked.Port), l, "forwarded-tcpip", func(conn net.Conn) []byte {
		return arrivedFrom(asked, conn.RemoteAddr())
	})
	return true, reply
}

// listenAddress is where to listen: an empty host is every address (RFC 4254, section 7.1), and some clients write it "*".
func listenAddress(asked forwardTCP) (string, bool) {
	host := asked.Host
	if host == "*" {
		host = ""
	}
	return address(host, asked.Port)
}

// chosenPort is the port that the guest says it listens on.
func chosenPort(addr net.Addr) (uint32, bool) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || tcp.Port < 1 || tcp.Port > math.MaxUint16 {
		return 0, false
	}
	return uint32(tcp.Port), true
}

// arrivedFrom is what the client is told of a connection: where it asked to listen, in its own words, and who has come.
func arrivedFrom(asked forwardTCP, peer net.Addr) []byte {
	arrived := arrivedTCP{Host: asked.Host, Port: asked.Port, OriginHost: "127.0.0.1"}
	if tcp, ok := peer.(*net.TCPAddr); ok {
		arrived.OriginHost, arrived.OriginPort = tcp.IP.String(), uint32(tcp.Port)
	}
	return ssh.Marshal(arrived)
}

func (c *connection) cancelTCP(payload []byte) bool {
	var asked forwardTCP
	return ssh.Unmarshal(payload, &asked) == nil && c.cancel(listenKey("tcp", asked.Host, asked.Port))
}

// listenUnix has the guest listen on a Unix socket for the client. The socket is the user's, and made with their rights.
func (c *connection) listenUnix(payload []byte) bool {
	var asked forwardUnix
	if ssh.Unmarshal(payload, &asked) != nil || asked.Path == "" {
		return false
	}
	l, err := c.listenAsUser(c.ctx, asked.Path)
	if err != nil {
		return false
	}
	c.listen(listenKey("unix", asked.Path, 0), l, "forwarded-streamlocal@openssh.com", func(net.Conn) []byte {
		return ssh.Marshal(arrivedUnix{Path: asked.Path})
	})
	return true
}

func (c *connection) listenAsUser(ctx context.Context, path string) (net.Listener, error) {
	ctx, cancel := context.WithTimeout(ctx, listenLimit)
	defer cancel()
	account, err := c.lookUp(ctx)
	if err != nil {
		return nil, err
	}
	return forward.Listen(ctx, c.open, "unix", path, forward.Owner(account.UID, account.GID))
}

func (c *connection) cancelUnix(payload []byte) bool {
	var asked forwardUnix
	return ssh.Unmarshal(payload, &asked) == nil && c.cancel(listenKey("unix", asked.Path, 0))
}

// listenKey names a listener as the client does when it cancels it.
func listenKey(network, place string, port uint32) string {
	return fmt.Sprintf("%s %d %s", network, port, place)
}

func (c *connection) cancel(key string) bool {
	c.mu.Lock()
	l, known := c.listeners[key]
	delete(c.listeners, key)
	c.mu.Unlock()
	if known {
		_ = l.Close()
	}
	return known
}

// listen keeps l, and passes its connections on to the client as channels of a type until it is closed.
func (c *connection) listen(key string, l net.Listener, channelType string, payload func(net.Conn) []byte) {
	c.mu.Lock()
	c.listeners[key] = l
	c.mu.Unlock()
	if c.ctx.Err() != nil { // stopListening may have been here
		_ = l.Close()
	}
	c.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			select {
			case c.arrivals <- struct{}{}:
			case <-c.ctx.Done():
				_ = conn.Close()
				return
			}
			c.work.Go(func() {
				defer func() { <-c.arrivals }()
				c.arrived(conn.(*forward.Conn), channelType, payload(conn))
			})
		}
	})
}

// arrived passes a connection from the guest on to the client.
func (c *connection) arrived(conn *forward.Conn, channelType string, payload []byte) {
	channel, requests, err := c.client.OpenChannel(channelType, payload)
	if err != nil {
		conn.Abort()
		return
	}
	join(c.ctx, channel, requests, conn)
}

// join copies between a channel and a connection of the guest, both ways, until both directions have ended, and closes
// both. The end of one direction is passed on as such. A connection that breaks closes the channel, and a client that
// closes the channel ends the connection once the guest has got what was sent before. When ctx ends, which is when the client
// has gone altogether, so does the connection, at once.
func join(ctx context.Context, channel ssh.Channel, requests <-chan *ssh.Request, conn *forward.Conn) {
	defer context.AfterFunc(ctx, conn.Abort)()
	defer func() { _ = conn.Close() }()
	defer func() { _ = channel.Close() }()
	deaf, sent := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sent)
		if _, err := io.Copy(conn, channel); err != nil {
			close(deaf)
			_, _ = io.Copy(io.Discard, channel)
			return
		}
		_ = conn.CloseWrite()
	}()
	go func() {
		ssh.DiscardRequests(requests) // until the client has closed the channel
		select {
		case <-sent:
		case <-time.After(drainLimit):
		}
		_ = conn.Close()
	}()
	if _, err := io.Copy(channel, conn); err != nil {
		_ = channel.Close()
		<-sent
		return
	}
	_ = channel.CloseWrite()
	select {
	case <-sent:
	case <-deaf: // both directions are over, though the client cannot know
	}
}
