package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// card is the network card that the host configures.
const card = "eth0"

// configure sets up the host name, the network and the files in /etc that depend on them.
func configure(out console, line commandLine) {
	var net network
	var err error
	if line.net != "" {
		net, err = parseNetwork(line.net)
	}
	for _, err := range []error{err, setHostname(line.hostname), setInterfaces(net), setFiles(line.hostname, net)} {
		if err != nil {
			out.say("%v", err)
		}
	}
}

func setHostname(name string) error {
	if name == "" {
		return nil
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("setting the host name %q: %w", name, err)
	}
	return nil
}

// setInterfaces brings lo up, to which the kernel gives its addresses, and gives the card its address and the default
// route. A card that has an address is left alone: the image has its own way.
func setInterfaces(n network) error {
	all, err := openInterfaces()
	if err != nil {
		return fmt.Errorf("configuring the network: %w", err)
	}
	defer all.close()
	return errors.Join(all.up("lo"), setCard(all, n))
}

func setCard(all interfaces, n network) error {
	if !n.address.IsValid() {
		return nil
	}
	if configured, err := all.hasAddress(card); err != nil || configured {
		return err
	}
	if err := all.setAddress(card, n.address); err != nil {
		return err
	}
	if err := all.up(card); err != nil {
		return err
	}
	return all.setGateway(n.gateway)
}

// setFiles puts /etc/hostname, /etc/hosts and /etc/resolv.conf in place, as docker does: generated files, mounted over
// the image's, so that the image's own stay as they are.
func setFiles(hostname string, n network) error {
	var failed []error
	if hostname != "" {
		failed = append(failed,
			overlay("/", "/etc/hostname", hostname+"\n"),
			overlay("/", "/etc/hosts", hosts(hostname, n)))
	}
	if n.dns.IsValid() && !resolvedRuns("/") {
		failed = append(failed, overlay("/", "/etc/resolv.conf", "nameserver "+n.dns.String()+"\n"))
	}
	return errors.Join(failed...)
}

// hostName is what the guest may call the host.
const hostName = "host.banger.internal"

// hosts returns docker's /etc/hosts for a guest of that name. With a network it also has a name for the host: connections
// to the gateway of QEMU's user network reach the host's loopback address.
func hosts(hostname string, n network) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	own := "127.0.1.1"
	if n.address.IsValid() {
		own = n.address.Addr().String()
	}
	b.WriteString(own + "\t" + hostname + "\n")
	if n.gateway.IsValid() {
		b.WriteString(n.gateway.String() + "\t" + hostName + "\n")
	}
	return b.String()
}

// resolvedRuns reports whether systemd-resolved keeps /etc/resolv.conf, now or later in this boot.
func resolvedRuns(root string) bool {
	const kept = "/run/systemd/resolve"
	path, err := resolveIn(root, "/etc/resolv.conf")
	if err != nil || !strings.HasPrefix(path, filepath.Join(root, kept)+"/") {
		return false
	}
	if exists(filepath.Join(root, kept)) {
		return true
	}
	return exists(filepath.Join(root, "/run/systemd/system")) && exists(filepath.Join(root, "/lib/systemd/systemd-resolved"))
}

// overlay mounts a file with the given text over the file of the image, which is made, empty, if it is missing. What
// an earlier agent of this boot has mounted stays.
func overlay(root, file, text string) error {
	target, err := resolveIn(root, file)
	if err != nil {
		return fmt.Errorf("preparing %q: %w", file, err)
	}
	source := filepath.Join(root, runtimeDir, filepath.Base(file))
	if sameFile(source, target) {
		return nil
	}
	if err := create(target); err != nil {
		return fmt.Errorf("preparing %q: %w", file, err)
	}
	if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
		return fmt.Errorf("preparing %q: %w", file, err)
	}
	if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
		return fmt.Errorf("preparing %q: %w", file, err)
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting %q over %q: %w", source, file, err)
	}
	return nil
}

// sameFile reports whether a and b are one file.
func sameFile(a, b string) bool {
	first, err := os.Stat(a)
	if err != nil {
		return false
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}

// create makes an empty file, and its directory, if it is not there.
func create(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}
