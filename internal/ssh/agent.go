package ssh

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net"
)

// agentSocket returns the path of a socket in the guest that leads to the client's authentication agent. All sessions of a
// connection share it. Its name cannot be guessed, and the socket is its user's alone: it has no directory of its own,
// which OpenSSH makes for systems that do not check the modes of sockets.
func (c *connection) agentSocket(ctx context.Context) (string, error) {
	c.agentMu.Lock()
	defer c.agentMu.Unlock()
	if c.agent != "" {
		return c.agent, nil
	}
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	path := "/tmp/banger-agent-" + hex.EncodeToString(random)
	l, err := c.listenAsUser(ctx, path)
	if err != nil {
		return "", err
	}
	c.listen(listenKey("agent", path, 0), l, "auth-agent@openssh.com", func(net.Conn) []byte { return nil })
	c.agent = path
	return path, nil
}
