package ssh

import (
	"net"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestSignalNames(t *testing.T) {
	for number, want := range map[syscall.Signal]string{
		syscall.SIGHUP: "HUP", syscall.SIGKILL: "KILL", syscall.SIGUSR2: "USR2", syscall.SIGBUS: "SIG@openssh.com",
		40: "SIG@openssh.com", 0: "SIG@openssh.com",
	} {
		if got := signalName(number); got != want {
			t.Errorf("signal %d is called %q, want %q", number, got, want)
		}
	}
	for name, want := range map[string]syscall.Signal{"TERM": syscall.SIGTERM, "WINCH": syscall.SIGWINCH, "SIGTERM": 0, "": 0, "NOPE": 0, "INFO@openssh.com": 0} {
		if got := signalNumber(name); got != want {
			t.Errorf("%q is the signal %d, want %d", name, got, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, test := range []struct {
		host string
		port uint32
		want string // "" is a refusal
	}{
		{"localhost", 80, "localhost:80"}, {"::1", 65535, "[::1]:65535"}, {"", 0, ":0"}, {"a", 65536, ""}, {"[::1]", 1, ""}, {"a\x00b", 1, ""},
	} {
		got, ok := address(test.host, test.port)
		if ok != (test.want != "") || got != test.want {
			t.Errorf("address(%q, %d) = %q, %v, want %q", test.host, test.port, got, ok, test.want)
		}
	}
	if got, ok := listenAddress(forwardTCP{Host: "*", Port: 1}); !ok || got != ":1" {
		t.Errorf("listening on * is listening on %q", got)
	}
}

// FuzzRequests: whatever a request's payload is, it is taken or refused, and what was taken can be passed to the agent.
func FuzzRequests(f *testing.F) {
	f.Add("pty-req", ssh.Marshal(ptyRequest{Term: "xterm", Columns: 80, Rows: 24, Modes: "\x00"}))
	f.Add("window-change", ssh.Marshal(windowChange{Columns: 1 << 20, Rows: 3}))
	f.Add("env", ssh.Marshal(envRequest{"LANG", "C"}))
	f.Add("exec", ssh.Marshal(execRequest{"true"}))
	f.Add("subsystem", ssh.Marshal(subsystemRequest{"sftp"}))
	f.Add("signal", ssh.Marshal(signalRequest{"TERM"}))
	f.Add("shell", []byte{})
	f.Add("auth-agent-req@openssh.com", []byte{})
	f.Add("direct", ssh.Marshal(directTCP{"h", 1, "o", 2}))
	f.Add("forward", ssh.Marshal(forwardTCP{"", 0}))
	f.Fuzz(func(t *testing.T, kind string, payload []byte) {
		s := &session{connection: &connection{sftp: []string{"sftp"}}, output: &output{}}
		s.makeEvents()
		for range 3 {
			s.handle(&ssh.Request{Type: kind, Payload: payload})
		}
		for _, entry := range s.command.Env {
			if key, _, ok := strings.Cut(entry, "="); !ok || key == "" || strings.Contains(entry, "\x00") {
				t.Errorf("the variable %q would not reach the command as it is", entry)
			}
		}
		var tcp forwardTCP
		if ssh.Unmarshal(payload, &tcp) == nil {
			if target, ok := listenAddress(tcp); ok {
				if _, _, err := net.SplitHostPort(target); err != nil {
					t.Errorf("the address %q of %+v is none: %v", target, tcp, err)
				}
			}
		}
	})
}
