package e2e

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestPorts: ports that a VM publishes, from its start and while it runs. The VM has no network, and the services listen
// on its loopback alone.
func TestPorts(t *testing.T) {
	u := newUser(t).withKernel()
	u.must("image", "pull", "docker-archive:"+fixture(t, "BANGER_TEST_ALPINE", "alpine"), "--name", "alpine")
	const server = `while :; do printf 'HTTP/1.0 200 OK\r\n\r\nhello from the guest\n' | nc -l -p 80 -s 127.0.0.1; done`
	u.must("vm", "run", "-d", "--name", "web", "--network", "none", "-p", "80", "alpine", "sh", "-c", server)
	u.must("vm", "exec", "-d", "web", "nc", "-u", "-l", "-p", "53", "-e", "cat")

	first := u.published("web", "80/tcp")
	if body := get(t, first); body != "hello from the guest\n" {
		t.Errorf("the port of the start answers %q", body)
	}
	added := u.published("web", "80/tcp", "vm", "port", "add", "web", "127.0.0.1::80", "53/udp")
	if body := get(t, added); body != "hello from the guest\n" {
		t.Errorf("the port that was added answers %q", body)
	}
	echo(t, u.published("web", "53/udp"))

	_, number, _ := net.SplitHostPort(first)
	u.says(refusal{9, []string{first, "port 80 of this VM", "hint:"}}, "vm", "port", "add", "web", number+":81")
	u.says(refusal{ofRun, []string{first, `the VM "web"`}}, "vm", "run", "--rm", "-p", number+":80", "alpine", "true")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, other, _ := net.SplitHostPort(taken.Addr().String())
	u.says(refusal{9, []string{taken.Addr().String(), "in use"}}, "vm", "port", "add", "web", other+":81")
	u.says(refusal{2, []string{"99999"}}, "vm", "port", "add", "web", "99999")
	u.says(refusal{3, []string{"81"}}, "vm", "port", "rm", "web", "81")

	u.must("vm", "port", "rm", "web", number+":80")
	closed(t, first)
	if body := get(t, added); body != "hello from the guest\n" {
		t.Errorf("the port that stays answers %q", body)
	}
	u.must("vm", "restart", "web")
	if again := u.published("web", "80/tcp"); again != added && !strings.HasPrefix(again, "127.0.0.1:") {
		t.Errorf("after the restart port 80 is at %s, and was at %s", again, added)
	}
	last := u.published("web", "80/tcp")
	u.must("vm", "rm", "-f", "web")
	closed(t, last)
	u.leftovers()
}

// published returns the address of the host at which a port of the VM is. With a command, that is what the command prints
// of it.
func (u *user) published(vm, port string, command ...string) string {
	u.t.Helper()
	if len(command) == 0 {
		command = []string{"vm", "port", "ls", vm}
	}
	list := u.must(command...)
	found := regexp.MustCompile(`(127\.0\.0\.1:\d+)\S*\s*(->)?\s*` + port).FindStringSubmatch(list)
	if found == nil {
		u.t.Fatalf("%v does not show where %s is:\n%s", command, port, list)
	}
	return found[1]
}

// get fetches a page with curl.
func get(t *testing.T, address string) string {
	t.Helper()
	out, err := exec.Command("curl", "-s", "--max-time", "20", "--retry", "5", "--retry-all-errors", "http://"+address+"/").CombinedOutput()
	if err != nil {
		t.Errorf("curl %s: %v: %s", address, err, out)
	}
	return string(out)
}

// echo sends datagrams to a service that sends them back.
func echo(t *testing.T, address string) {
	t.Helper()
	conn, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range 3 {
		want := fmt.Sprintf("datagram %d", i)
		_, _ = io.WriteString(conn, want)
		answer := make([]byte, 100)
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := conn.Read(answer)
		if err != nil || string(answer[:n]) != want {
			t.Fatalf("the answer to %q is %q (%v)", want, answer[:n], err)
		}
	}
}

// closed fails the test if anybody listens at the address.
func closed(t *testing.T, address string) {
	t.Helper()
	if conn, err := net.DialTimeout("tcp", address, time.Second); err == nil {
		_ = conn.Close()
		t.Errorf("something still listens at %s", address)
	}
}
