// Package ssh lets OpenSSH and everything that is built on it into a guest that has neither an SSH server nor a network.
//
// SSH ends on the host. A short-lived process of the user, OpenSSH's ProxyCommand, serves one SSH connection on its
// standard input and output, and maps what it asks for to the guest's agent: a session is a command (package exec),
// sftp is a command too, and a forwarded connection is a socket of the guest (package forward). docs/ssh.md says what works
// and why nobody has to authenticate.
//
// The client is trusted, as it is the user's own; the guest is not. Whatever the guest sends can spoil its own
// connections, and nothing else.
package ssh

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/banger-vm/banger/internal/guest"
	"github.com/banger-vm/banger/internal/guest/exec"
)

// serverVersion is what the server calls itself (RFC 4253, section 4.2). OpenSSH's client uses eow@openssh.com only with a
// server of that name (compat.c, SSH_NEW_OPENSSH). Without it, `ssh VM yes | head` would go on for ever.
const serverVersion = "SSH-2.0-OpenSSH_9.2 banger"

// Opener opens a stream to the guest's agent.
type Opener func(ctx context.Context) (net.Conn, error)

// Options are what a server needs.
type Options struct {
	Open    Opener
	HostKey ssh.Signer
	Env     []string // KEY=VALUE for every command, over the image's environment
	// SFTP is the program in the guest, with its arguments, that serves files on its standard input and output; nil is
	// the agent's.
	SFTP []string
}

// Serve serves one SSH connection, which it closes, until the client leaves or ctx ends. Commands that run then are killed
// as package exec does. The user name of the login is a user of the guest; nobody has to prove to be one, so that conn has
// to be private to somebody who may do anything in the guest.
func Serve(ctx context.Context, conn net.Conn, options Options) error {
	served := make(chan error, 1)
	go func() { served <- serve(ctx, conn, options) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	// A read of standard input does not end with its being closed, but with the client.
	select {
	case err := <-served:
		return err
	case <-time.After(leaveLimit):
		return context.Cause(ctx)
	}
}

// leaveLimit is how long a client may take to leave once the connection is closed.
const leaveLimit = time.Second

func serve(ctx context.Context, conn net.Conn, options Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	secured, channels, requests, err := ssh.NewServerConn(conn, serverConfig(options.HostKey))
	if err != nil {
		_ = conn.Close()
		return fmt.Errorf("beginning an SSH connection: %w", err)
	}
	if options.SFTP == nil {
		options.SFTP = []string{guest.InitPath(guest.Guest), "sftp"}
	}
	c := &connection{
		ctx: ctx, client: secured, open: options.Open, user: secured.User(), env: options.Env, sftp: options.SFTP,
		listeners: map[string]io.Closer{}, arrivals: make(chan struct{}, maxArrivals),
	}
	c.serve(cancel, channels, requests)
	return nil
}

func serverConfig(key ssh.Signer) *ssh.ServerConfig {
	config := &ssh.ServerConfig{
		NoClientAuth:  true,
		ServerVersion: serverVersion,
		// For clients that do not try to do without a key first.
		PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil },
	}
	config.AddHostKey(key)
	return config
}

// connection is one SSH connection.
type connection struct {
	ctx    context.Context // ends with the connection
	client *ssh.ServerConn
	open   Opener
	user   string
	env    []string
	sftp   []string
	work   sync.WaitGroup // what serves a part of the connection

	arrivals chan struct{} // has an element for each connection that came from the guest and is open

	mu        sync.Mutex
	listeners map[string]io.Closer // what listens in the guest, by listenKey

	agentMu sync.Mutex
	agent   string // path of the socket in the guest that leads to the client's authentication agent
}

// serve serves the connection's parts until the client is gone.
func (c *connection) serve(cancel func(), channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	c.work.Go(func() { c.answer(requests) })
	for offered := range channels {
		c.work.Go(func() { c.accept(offered) })
	}
	cancel()
	c.stopListening()
	_ = c.client.Close()
	c.work.Wait()
}

// answer answers global requests, in their order: their answers have no names (RFC 4254, section 4).
func (c *connection) answer(requests <-chan *ssh.Request) {
	for r := range requests {
		ok, payload := c.global(r)
		_ = r.Reply(ok, payload)
	}
}

func (c *connection) global(r *ssh.Request) (ok bool, payload []byte) {
	switch r.Type {
	case "keepalive@openssh.com", "no-more-sessions@openssh.com":
		// The latter is to keep whoever takes over a client from starting more. Here it is the client's own server.
		return true, nil
	case "tcpip-forward":
		return c.listenTCP(r.Payload)
	case "cancel-tcpip-forward":
		return c.cancelTCP(r.Payload), nil
	case "streamlocal-forward@openssh.com":
		return c.listenUnix(r.Payload), nil
	case "cancel-streamlocal-forward@openssh.com":
		return c.cancelUnix(r.Payload), nil
	}
	return false, nil
}

// accept serves one channel to its end.
func (c *connection) accept(offered ssh.NewChannel) {
	switch offered.ChannelType() {
	case "session":
		c.session(offered)
	case "direct-tcpip":
		c.dialTCP(offered)
	case "direct-streamlocal@openssh.com":
		c.dialUnix(offered)
	default:
		_ = offered.Reject(ssh.UnknownChannelType, "banger does not know this type of channel")
	}
}

// lookUp finds the user of the login.
func (c *connection) lookUp(ctx context.Context) (exec.Account, error) {
	stream, err := c.open(ctx)
	if err != nil {
		return exec.Account{}, err
	}
	return exec.LookUp(ctx, stream, c.user)
}

// stopListening ends what listens in the guest.
func (c *connection) stopListening() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.listeners {
		_ = l.Close()
	}
	c.listeners = map[string]io.Closer{}
}

// maxWords is how much of the guest's words is passed on where the client does not expect much, in bytes.
const maxWords = 1 << 10

// words are those of err, cut to a length that an SSH message can have.
func words(err error) string {
	text := err.Error()
	if len(text) > maxWords {
		text = text[:maxWords] + "…"
	}
	return text
}
