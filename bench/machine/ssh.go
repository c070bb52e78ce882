package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SSH is an established connection of OpenSSH to an sshd in a VM, over QEMU's user network. That network lets nobody in,
// so the guest calls the host, and its sshd serves the connection as inetd would hand it over: nothing stands between
// ssh, QEMU and sshd.
type SSH struct {
	Banger Banger
	VM     string // with openssh-server and bash
	Dir    string // for keys and sockets; it stays the caller's
	Helper string // this program: see DialBack

	master *exec.Cmd
}

// gateway is the host in QEMU's user network.
const gateway = "10.0.2.2"

func (s *SSH) path(name string) string { return filepath.Join(s.Dir, name) }

// options are those of every ssh and scp.
func (s *SSH) options() []string {
	var options []string
	for _, o := range []string{
		"ControlPath=" + s.path("control"), "IdentityFile=" + s.path("key"), "IdentitiesOnly=yes", "BatchMode=yes",
		"StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR",
	} {
		options = append(options, "-o", o)
	}
	return append([]string{"-F", "none"}, options...)
}

// Connect establishes the connection. The caller closes it.
func (s *SSH) Connect(ctx context.Context) error {
	if err := s.authorize(ctx); err != nil {
		return err
	}
	address := s.path("port")
	proxy := strings.Join([]string{s.Helper, "dial-back", address}, " ")
	args := append(s.options(), "-o", "ControlMaster=yes", "-o", "ProxyUseFdpass=yes", "-o", "ProxyCommand="+proxy, "-N", "root@guest")
	s.master = exec.CommandContext(ctx, "ssh", args...)
	s.master.Stderr = os.Stderr
	if err := s.master.Start(); err != nil {
		return fmt.Errorf("starting ssh: %w", err)
	}
	if err := s.call(ctx, address); err != nil {
		return errors.Join(err, s.Close())
	}
	return s.await(ctx)
}

// authorize makes a key and lets it in.
func (s *SSH) authorize(ctx context.Context) error {
	if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.path("key")).CombinedOutput(); err != nil {
		return fmt.Errorf("making a key: %w: %s", err, out)
	}
	key, err := os.ReadFile(s.path("key.pub"))
	if err != nil {
		return err
	}
	_, err = s.Banger.exec(ctx, s.VM, "sh", "-c",
		`umask 077; mkdir -p /root/.ssh /run/sshd; ssh-keygen -A >/dev/null; printf '%s\n' "$1" >/root/.ssh/authorized_keys`,
		"sh", strings.TrimSpace(string(key)))
	return err
}

// call has the guest connect to the port that DialBack listens on.
func (s *SSH) call(ctx context.Context, address string) error {
	port, err := awaitFile(ctx, address)
	if err != nil {
		return err
	}
	_, err = s.Banger.run(ctx, "vm", "exec", "-d", s.VM, "--", "bash", "-c",
		`exec 3<>"/dev/tcp/$0/$1"; exec /usr/sbin/sshd -i <&3 >&3 3>&-`, gateway, port)
	return err
}

func awaitFile(ctx context.Context, path string) (string, error) {
	for ctx.Err() == nil {
		text, err := os.ReadFile(path)
		if err == nil {
			return string(text), nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", context.Cause(ctx)
}

// await waits until the master answers.
func (s *SSH) await(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := exec.CommandContext(limited, "ssh", append(s.options(), "-O", "check", "root@guest")...).Run()
		if err == nil {
			return nil
		}
		select {
		case <-limited.Done():
			return errors.Join(fmt.Errorf("waiting for the connection of ssh: %w", err), s.Close())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Close ends the connection.
func (s *SSH) Close() error {
	_ = s.master.Process.Signal(syscall.SIGTERM)
	_ = s.master.Wait() // the signal's doing
	return nil
}

// Exec runs a command over the connection.
func (s *SSH) Exec(ctx context.Context, command string) error {
	out, err := exec.CommandContext(ctx, "ssh", append(s.options(), "root@guest", command)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("running %q by ssh: %w: %s", command, err, out)
	}
	return nil
}

// Copy copies a file over the connection. "guest:" before a path means the guest.
func (s *SSH) Copy(ctx context.Context, from, to string) error {
	name := func(path string) string {
		if strings.HasPrefix(path, "guest:") {
			return "root@" + path
		}
		return path
	}
	out, err := exec.CommandContext(ctx, "scp", append(s.options(), "-q", name(from), name(to))...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copying %q to %q by scp: %w: %s", from, to, err, out)
	}
	return nil
}

// DialBack is the ProxyCommand: it listens on the host, writes the port into a new file, and gives the first connection
// to ssh, by its standard output, which is a socket for that (ssh_config(5), ProxyUseFdpass).
func DialBack(address string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	if err := os.WriteFile(address+".part", []byte(port), 0o600); err != nil {
		return err
	}
	if err := os.Rename(address+".part", address); err != nil {
		return err
	}
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		return err
	}
	return unix.Sendmsg(int(os.Stdout.Fd()), []byte{0}, unix.UnixRights(int(file.Fd())), nil, 0)
}
