package port

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
)

// TestHolder is no test: it is the process that holds a port in TestInUse.
func TestHolder(t *testing.T) {
	address := os.Getenv("BANGER_TEST_HOLD")
	if address == "" {
		t.Skip("only runs as a process of TestInUse")
	}
	network, address, _ := strings.Cut(address, " ")
	var at net.Addr
	if network == "udp" {
		socket, err := net.ListenPacket(network, address)
		if err != nil {
			t.Fatal(err)
		}
		at = socket.LocalAddr()
	} else {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		at = l.Addr()
	}
	fmt.Println("open " + at.String()[strings.LastIndex(at.String(), ":")+1:])
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the test closes it
}

// hold starts a process that has a port, and returns the port and the process's id.
func hold(t *testing.T, what string) (port, pid int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestHolder$")
	cmd.Env = append(os.Environ(), "BANGER_TEST_HOLD="+what)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = stdin.Close(), cmd.Wait() })
	if _, err := fmt.Fscanf(stdout, "open %d\n", &port); err != nil {
		t.Fatalf("the process that is to hold %s does not say the port: %v", what, err)
	}
	return port, cmd.Process.Pid
}

func TestInUse(t *testing.T) {
	for _, test := range []struct{ held, spec string }{
		{"tcp 127.0.0.1:0", "127.0.0.1:%d:80"},
		{"tcp 127.0.0.1:0", "0.0.0.0:%d:80"},
		{"tcp 0.0.0.0:0", "127.0.0.1:%d:80"},
		{"tcp [::]:0", "127.0.0.1:%d:80"},
		{"tcp [::1]:0", "[::1]:%d:80"},
		{"udp 127.0.0.1:0", "127.0.0.1:%d:80/udp"},
		{"udp [::]:0", "0.0.0.0:%d:80/udp"},
	} {
		t.Run(test.held+" "+test.spec, func(t *testing.T) {
			s := newSet(t)
			port, pid := hold(t, test.held)
			specs, err := Parse(fmt.Sprintf(test.spec, port))
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Add(specs...)
			var taken *InUse
			if !errors.As(err, &taken) || taken.PID != pid || fault.KindOf(err) != fault.Conflict || fault.HintOf(err) == "" {
				t.Fatalf("publishing a port of process %d gives %v, kind %d, hint %q", pid, err, fault.KindOf(err), fault.HintOf(err))
			}
			if want := fmt.Sprintf("is in use by port.test (pid %d)", pid); !strings.Contains(err.Error(), want) {
				t.Errorf("the error is %q, which lacks %q", err, want)
			}
			s.config.Holder = func(id int) string { return fmt.Sprintf(`the VM "of %d"`, id) }
			if _, err = s.Add(specs...); !strings.HasSuffix(err.Error(), fmt.Sprintf(`is in use by the VM "of %d"`, pid)) {
				t.Errorf("the error is %q, which lacks what the caller knows of the process", err)
			}
		})
	}
}

// TestInUseBySet: a port that the VM publishes itself.
func TestInUseBySet(t *testing.T) {
	s := newSet(t)
	p := add(t, s, "81")
	_, err := s.Add(Spec{Host: p.Address.Port(), Guest: 80, Protocol: TCP})
	if err == nil || !strings.HasSuffix(err.Error(), "is in use by port 81 of this VM") {
		t.Errorf("the error is %v", err)
	}
	if p := add(t, s, "%d:80/udp", p.Address.Port()); p.Guest != 80 {
		t.Errorf("published is %v", p)
	}
}

func TestExplain(t *testing.T) {
	s := newSet(t)
	_, err := s.Add(Spec{IP: mustIP("192.0.2.1"), Guest: 80, Protocol: TCP})
	if fault.KindOf(err) != fault.Usage || !strings.Contains(err.Error(), "the host has no address 192.0.2.1") {
		t.Errorf("an address that is not the host's gives %v, kind %d", err, fault.KindOf(err))
	}
}
