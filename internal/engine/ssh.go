package engine

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/banger-vm/banger/internal/guest"
	"github.com/banger-vm/banger/internal/ssh"
	"github.com/banger-vm/banger/internal/ssh/openssh"
)

// sshDomain is what OpenSSH knows VMs by: their name and this.
const sshDomain = ".banger"

// sshUser is who a client of SSH is in a VM when it does not say.
const sshUser = "root"

// sshHost is where VMs are. An Engine is one, and so is the client of one that is elsewhere.
type sshHost interface {
	Streamer
	FindVM(ctx context.Context, name string) (VM, error)
}

// ServeSSH serves one SSH connection to a VM of host that runs, until the client leaves. It owns conn.
func (e *Engine) ServeSSH(ctx context.Context, host sshHost, name string, conn net.Conn) error {
	vm, err := host.FindVM(ctx, strings.TrimSuffix(name, sshDomain))
	if err != nil {
		return err
	}
	open := func(ctx context.Context) (net.Conn, error) { return host.Stream(ctx, vm.Name) }
	// SSH has no words for a VM that cannot be reached.
	first, err := open(ctx)
	if err != nil {
		return err
	}
	_ = first.Close()
	identity, err := e.sshIdentity(ctx)
	if err != nil {
		return err
	}
	return ssh.Serve(ctx, conn, ssh.Options{
		Open: open, HostKey: identity.HostKey, Env: vm.Env, SFTP: []string{guest.InitPath(guest.Guest), "sftp"},
	})
}

func (e *Engine) sshIdentity(ctx context.Context) (ssh.Identity, error) {
	return ssh.LoadIdentity(ctx, e.home.Path("ssh"), "*"+sshDomain)
}

// SSHClient says how OpenSSH reaches this home's VMs, by a banger that is started as program with the variables of
// env, as KEY=VALUE.
func (e *Engine) SSHClient(ctx context.Context, program string, env []string) (openssh.Client, error) {
	identity, err := e.sshIdentity(ctx)
	if err != nil {
		return openssh.Client{}, err
	}
	proxy := []string{program, "vm", "ssh-proxy"}
	if len(env) > 0 {
		proxy = append(append([]string{"env"}, env...), proxy...)
	}
	return openssh.Client{Domain: sshDomain, User: sshUser, Proxy: proxy, KnownHosts: identity.KnownHosts}, nil
}

// SSHCommand is the program and the arguments, the first of them its name, that connect to a VM of host that runs as args
// of ssh(1) say, in which the VM has the place of the host.
func (e *Engine) SSHCommand(ctx context.Context, host Streamer, client openssh.Client, args openssh.Args) (program string, argv []string, err error) {
	name := strings.TrimSuffix(args.Host, sshDomain)
	stream, err := host.Stream(ctx, name)
	if err != nil {
		return "", nil, fmt.Errorf("connecting by SSH: %w", err)
	}
	_ = stream.Close()
	if program, err = e.runner.Find("ssh"); err != nil {
		return "", nil, err
	}
	args.Host = name + sshDomain
	options, err := client.Options()
	if err != nil {
		return "", nil, err
	}
	return program, append([]string{"ssh"}, args.With(options)...), nil
}

// sshDirectoryMode is what OpenSSH wants of the directory of its configuration.
const sshDirectoryMode os.FileMode = 0o700

// InstallSSH has OpenSSH, whose configuration is in dir, know the home's VMs. It says whether it has changed something.
func (e *Engine) InstallSSH(client openssh.Client, dir string) (changed bool, err error) {
	block, err := client.Block()
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(dir, sshDirectoryMode); err != nil {
		return false, fmt.Errorf("making OpenSSH's directory: %w", err)
	}
	return openssh.Install(dir, block)
}
