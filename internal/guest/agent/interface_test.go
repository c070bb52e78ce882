package agent

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestInterfaces configures the interface of a new network namespace, and Go's own netlink judges.
func TestInterfaces(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	all, err := openInterfaces()
	if err != nil {
		t.Fatal(err)
	}
	defer all.close()
	if has, err := all.hasAddress("lo"); has || err != nil {
		t.Errorf("an interface that is down has an address: %v (%v)", has, err)
	}
	if err := all.setAddress("lo", netip.MustParsePrefix("10.0.2.15/20")); err != nil {
		t.Fatal(err)
	}
	if err := all.up("lo"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time by an agent that was restarted
		if err := all.setGateway(netip.MustParseAddr("10.0.2.2")); err != nil {
			t.Error(err)
		}
	}
	checkLoopback(t)
	routes, err := os.ReadFile("/proc/thread-self/net/route")
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(routes)), " "), "lo 00000000 0202000A 0003 ") {
		t.Errorf("there is no default route by 10.0.2.2 (%v):\n%s", err, routes)
	}
	if has, err := all.hasAddress("lo"); !has || err != nil {
		t.Errorf("the interface has an address: %v (%v), want true", has, err)
	}
	if _, err := all.hasAddress("eth7"); err == nil || !strings.Contains(err.Error(), `"eth7": `+unix.ENODEV.Error()) {
		t.Errorf("an interface that is not there gave %v", err)
	}
}

// checkLoopback checks the state and addresses of lo.
func checkLoopback(t *testing.T) {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := lo.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range addresses {
		got = append(got, a.String())
	}
	if lo.Flags&net.FlagUp == 0 || !slices.Contains(got, "10.0.2.15/20") {
		t.Errorf("lo is %v, with the addresses %v, want it up, with 10.0.2.15/20", lo.Flags, got)
	}
}

func TestSplitModules(t *testing.T) {
	const disks = "00-virtio_ring.ko 01-virtio.ko 02-virtio_mmio.ko"
	const pci = " 03-virtio_pci_modern_dev.ko 04-virtio_pci.ko"
	const others = "06-virtio_console.ko 07-virtio-rng.ko"
	for _, test := range []struct {
		name, listed string
		noPCI        bool
		first, rest  string
	}{
		{"PCI", disks + pci + " 05-virtio_blk.ko " + others, false, disks + pci + " 05-virtio_blk.ko", others},
		{"no PCI", disks + pci + " 05-virtio_blk.ko " + others, true, disks + " 05-virtio_blk.ko", others},
		{"file system", disks + " 03-virtio-blk.ko 04-jbd2.ko 05-ext4.ko " + others, true, disks + " 03-virtio-blk.ko 04-jbd2.ko 05-ext4.ko", others},
		{"file system last", disks + " 05-virtio_blk.ko " + others + " 08-ext4.ko", true, disks + " 05-virtio_blk.ko " + others + " 08-ext4.ko", ""},
		{"disks built in", others, true, "", others},
		{"all built in", "", true, "", ""},
	} {
		first, rest := splitModules(strings.Fields(test.listed), test.noPCI)
		if strings.Join(first, " ") != test.first || strings.Join(rest, " ") != test.rest {
			t.Errorf("%s: first %q, then %q, want %q and %q", test.name, first, rest, test.first, test.rest)
		}
	}
}

func TestNoGate(_ *testing.T) {
	for _, args := range [][]string{{"banger-guest", "agent"}, {"banger-guest"}} {
		gateOf(args)() // one would wait for ever, or close somebody's file
	}
}
