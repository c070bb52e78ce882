// Package openssh tells OpenSSH's client how to reach VMs: by options of a command line, or by a file that the user's
// configuration includes (ssh_config(5)).
package openssh

import (
	"fmt"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/system"
)

// Client says how OpenSSH reaches the VMs.
type Client struct {
	Domain     string   // what host names of VMs end with, such as ".banger"
	User       string   // who the client is in a VM when it does not say
	Proxy      []string // the program, with its arguments, to which the VM's name is added; it serves SSH on its streams
	KnownHosts string   // path
}

// Program finds ssh(1) in the directories of path, as in $PATH. That there is none is a fault.
func Program(path string) (string, error) { return system.NewCommandRunner(path).Find("ssh") }

// setting is a line of ssh_config(5).
type setting struct{ key, value string }

// settings are what the client has to know.
func (c Client) settings() ([]setting, error) {
	proxy, err := c.proxyCommand()
	if err != nil {
		return nil, err
	}
	// The file's path may have tokens and environment variables in it (ssh_config(5), "TOKENS").
	if strings.ContainsAny(c.KnownHosts, "\"\\$\n") {
		return nil, unwritable(c.KnownHosts)
	}
	known := `"` + strings.ReplaceAll(c.KnownHosts, "%", "%%") + `"`
	return []setting{
		{"ProxyCommand", proxy},
		{"User", c.User},
		{"UserKnownHostsFile", known},
		{"StrictHostKeyChecking", "yes"},
		{"UpdateHostKeys", "no"},
		// What both ends do fastest comes first. OpenSSH's own order has it last.
		{"Ciphers", "^aes128-gcm@openssh.com"},
	}, nil
}

// proxyCommand is the line that a shell gets. ssh puts "exec" before it.
func (c Client) proxyCommand() (string, error) {
	var words []string
	for _, w := range c.Proxy {
		if strings.ContainsAny(w, "\n\x00") {
			return "", unwritable(w)
		}
		words = append(words, strings.ReplaceAll(quote(w), "%", "%%"))
	}
	return strings.Join(append(words, "%h"), " "), nil
}

// quote makes one word of a shell of w.
func quote(w string) string {
	for _, c := range w {
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("/._-=+:@%", c)
		if !plain {
			return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return w
}

func unwritable(path string) error {
	err := fmt.Errorf("writing the configuration of OpenSSH: it cannot hold the path %q", path)
	return fault.New(fault.Usage, err, "move banger, or set BANGER_HOME to another directory")
}

// Options are the arguments of ssh(1) for one connection.
func (c Client) Options() ([]string, error) {
	settings, err := c.settings()
	if err != nil {
		return nil, err
	}
	var options []string
	for _, s := range settings {
		options = append(options, "-o", s.key+"="+s.value)
	}
	return options, nil
}

// Block is the part of a configuration file that is for VMs.
func (c Client) Block() (string, error) {
	settings, err := c.settings()
	if err != nil {
		return "", err
	}
	var block strings.Builder
	fmt.Fprintf(&block, "Host *%s\n", c.Domain)
	for _, s := range settings {
		fmt.Fprintf(&block, "  %s %s\n", s.key, s.value)
	}
	return block.String(), nil
}

// withValue are the options of ssh(1) that take a value, as of OpenSSH 10.
const withValue = "BbcDEeFIiJLlmOoPpQRSWw"

// Args are the arguments of ssh(1), taken apart.
type Args struct {
	Options []string // before the host
	Host    string
	Command []string // and options after the host, which are for ssh to know
}

// Parse takes arguments of ssh(1) apart. A user before the host becomes an option.
func Parse(args []string) (Args, error) {
	var a Args
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && args[0] != "--" {
		n := 1
		if needsNext(args[0]) {
			n = 2
		}
		if n > len(args) {
			return Args{}, fault.New(fault.Usage, fmt.Errorf("the option %s of ssh needs a value", args[0]), "see ssh(1)")
		}
		a.Options = append(a.Options, args[:n]...)
		args = args[n:]
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 || args[0] == "" {
		return Args{}, fault.New(fault.Usage, fmt.Errorf("connecting by SSH: no VM is named"), "for example: banger vm ssh web")
	}
	a.Host, a.Command = args[0], args[1:]
	if at := strings.LastIndexByte(a.Host, '@'); at >= 0 {
		a.Options = append(a.Options, "-l", a.Host[:at])
		a.Host = a.Host[at+1:]
	}
	return a, nil
}

// needsNext says whether the value of an option, the last of several letters perhaps, is the next argument.
func needsNext(option string) bool {
	at := strings.IndexAny(option[1:], withValue)
	return at >= 0 && at == len(option)-2
}

// With returns the arguments with more options. Of each setting the first counts (ssh_config(5)), so that the user's win.
// Host must not begin with "-".
func (a Args) With(options []string) []string {
	all := append(append([]string{}, a.Options...), options...)
	return append(append(all, a.Host), a.Command...)
}
