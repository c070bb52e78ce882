package agent

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// commandLine is what the host says on the kernel's command line.
type commandLine struct {
	init     string // banger.init
	hostname string // banger.hostname
	net      string // banger.net
	magic    string // banger.magic
	grow     bool   // banger.grow
	modules  bool   // banger.modules
	spawn    bool   // banger.spawn
}

// readCommandLine reads a file such as /proc/cmdline.
func readCommandLine(file string) (commandLine, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return commandLine{}, fmt.Errorf("reading the kernel's command line: %w", err)
	}
	return parseCommandLine(string(text)), nil
}

// parseCommandLine picks banger's words out. The last one of a name counts.
func parseCommandLine(text string) commandLine {
	var c commandLine
	for _, word := range strings.Fields(text) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "banger.init":
			c.init = value
		case "banger.hostname":
			c.hostname = value
		case "banger.net":
			c.net = value
		case "banger.magic":
			c.magic = value
		case "banger.grow":
			c.grow = true
		case "banger.modules":
			c.modules = true
		case "banger.spawn":
			c.spawn = true
		}
	}
	return c
}

// network is a static configuration of the first network card.
type network struct {
	address netip.Prefix // of the guest, with the length of its network
	gateway netip.Addr
	dns     netip.Addr
}

// parseNetwork parses ADDR/LEN,GATEWAY,DNS.
func parseNetwork(text string) (network, error) {
	parts := strings.Split(text, ",")
	if len(parts) != 3 {
		return network{}, fmt.Errorf("parsing the network %q: want ADDR/LEN,GATEWAY,DNS", text)
	}
	address, err := netip.ParsePrefix(parts[0])
	if err != nil {
		return network{}, fmt.Errorf("parsing the network %q: %w", text, err)
	}
	gateway, err := netip.ParseAddr(parts[1])
	if err != nil {
		return network{}, fmt.Errorf("parsing the network %q: %w", text, err)
	}
	dns, err := netip.ParseAddr(parts[2])
	if err != nil {
		return network{}, fmt.Errorf("parsing the network %q: %w", text, err)
	}
	if !address.Addr().Is4() || !gateway.Is4() {
		return network{}, fmt.Errorf("parsing the network %q: it is not IPv4", text)
	}
	return network{address, gateway, dns}, nil
}
