package vm

import (
	"encoding/hex"
	"fmt"
	"strconv"
)

// The user network of QEMU and of libslirp (slirp/src/libslirp.h, slirp_init): the guest, the gateway, which is the
// host, and the resolver, which forwards to the host's.
const guestNetwork = "10.0.2.15/24,10.0.2.2,10.0.2.3"

// CommandLine returns the parameters of the kernel. Magic begins the records of the channel's handshake. tscKHz is the
// rate in kHz at which the guest's time stamp counter runs; 0 lets the kernel measure it.
func (s Spec) CommandLine(magic [16]byte, tscKHz int) []string {
	line := []string{
		// The serial port has all that the kernel says, and the agent's steps. Without "quiet": a kernel that hangs says
		// where, and a boot does not become measurably slower.
		"console=ttyS0",
		// A panic or a restart ends the VMM at once, by a triple fault: there is no firmware to return to.
		"panic=-1", "reboot=t",
		// The check that timer interrupts come in time fails on a busy host, and is a panic.
		"no_timer_check",
		// Without them a boot takes a tenth less: self-tests of ciphers, and waiting for RCU's grace periods.
		"cryptomgr.notests", "rcupdate.rcu_expedited=1",
		// The guest has one network card, and the agent calls it eth0.
		"net.ifnames=0",
		// systemd would wait 90 s for the device unit of a terminal that udev does not announce.
		"systemd.mask=serial-getty@ttyS0.service",
		"banger.init=" + s.Init,
		"banger.magic=" + hex.EncodeToString(magic[:]),
	}
	if tscKHz != 0 {
		line = append(line, "tsc_early_khz="+strconv.Itoa(tscKHz))
	}
	if s.Hostname != "" {
		line = append(line, "banger.hostname="+s.Hostname)
	}
	if s.SpawnAgent {
		line = append(line, "banger.spawn")
	}
	if s.DiskSize != 0 {
		line = append(line, "banger.grow")
	}
	if s.ModulesImage != "" {
		line = append(line, "banger.modules")
	}
	if s.Network {
		line = append(line, fmt.Sprintf("banger.net=%s", guestNetwork))
	}
	return line
}
