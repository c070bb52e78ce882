package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestNetwork: a VM with a network reaches the host by its name, and resolves names as the host does.
func TestNetwork(t *testing.T) {
	u := withAlpine(t)
	u.must("vm", "run", "-d", "--name", "box", "alpine", "sleep", "1000")
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "the host") }))
	defer host.Close()
	_, port, _ := net.SplitHostPort(host.Listener.Addr().String())
	if got := u.exec("box", "wget -q -O - http://host.banger.internal:"+port+"/"); got != "the host\n" {
		t.Errorf("host.banger.internal answers %q", got)
	}
	checkNames(t, u)
	u.must("vm", "rm", "-f", "box")
	u.leftovers()
}

// checkNames compares what host and guest say of names. Where the host resolves none, the guest gets an answer too: that
// there is none.
func checkNames(t *testing.T, u *user) {
	t.Helper()
	for _, name := range []string{"deb.debian.org", "no-such-host.invalid"} {
		addresses, _ := net.LookupIP(name)
		began := time.Now()
		got := u.run("vm", "exec", "box", "--", "nslookup", name)
		for _, address := range addresses {
			if address.To4() != nil && !strings.Contains(got.stdout, address.String()) {
				t.Errorf("the host finds %s at %v, and the guest says %v", name, addresses, got)
			}
		}
		if len(addresses) == 0 && strings.Contains(got.stdout, "Address") {
			t.Errorf("the host does not find %s, and the guest says %v", name, got)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("nobody has answered for %s in the guest within %v", name, took)
		}
	}
}

// TestClock: the guest's clock is the host's, also after somebody has set it wrong, and after the machine has stood still
// as it does while the host sleeps.
func TestClock(t *testing.T) {
	u := withAlpine(t)
	u.must("vm", "run", "-d", "--name", "box", "--network", "none", "alpine", "sleep", "1000")
	u.clockIsRight("box")
	u.exec("box", "date -s '2001-02-03 04:05:06'")
	u.clockIsRight("box")
	vmm := u.inspect("box").Status.VMM
	if err := syscall.Kill(vmm, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(12 * time.Second)
	if err := syscall.Kill(vmm, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	u.clockIsRight("box")
	if seed := u.exec("box", "cat /proc/sys/kernel/random/entropy_avail"); strings.TrimSpace(seed) != "256" {
		t.Errorf("the guest's randomness has %s bits, want all 256", seed)
	}
	u.must("vm", "rm", "-f", "box")
	u.leftovers()
}

// clockIsRight waits until the guest's clock is within two seconds of the host's: one for date's whole seconds, one for a
// busy host.
func (u *user) clockIsRight(vm string) {
	u.t.Helper()
	var off time.Duration
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); time.Sleep(time.Second) {
		before := time.Now()
		seconds, err := strconv.ParseInt(strings.TrimSpace(u.exec(vm, "date +%s")), 10, 64)
		if err != nil {
			u.t.Fatal(err)
		}
		if off = time.Unix(seconds, 0).Sub(before); off.Abs() < 2*time.Second+time.Since(before) {
			return
		}
	}
	u.t.Errorf("after 30 s the guest's clock is off by %v", off)
}
