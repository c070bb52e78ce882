package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/ssh"
	"github.com/banger-vm/banger/internal/ssh/openssh"
)

func newVMSSH(a *app) *cobra.Command {
	return &cobra.Command{
		Use:                   "ssh [SSH OPTIONS] [USER@]VM [COMMAND…]",
		DisableFlagsInUseLine: true,
		DisableFlagParsing:    true, // they are ssh's

		Short: "Connect to a VM that runs with OpenSSH",
		Long: `Connect to a VM that runs with OpenSSH's ssh, whose options these are. The VM needs no sshd, no keys and no network.

The user is root unless -l or USER@ says otherwise. "banger ssh-config --install" has ssh, scp, sftp, rsync, git and
VS Code know VMs by the name VM.banger.`,
		Example: `  banger vm ssh web
  banger vm ssh postgres@db psql
  banger vm ssh -L 8080:localhost:80 web
  banger vm ssh -A -t web tmux attach`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && (args[0] == "--help" || args[0] == "-h") {
				return cmd.Help()
			}
			return a.vmSSH(cmd.Context(), args)
		},
	}
}

// vmSSH becomes ssh.
func (a *app) vmSSH(ctx context.Context, args []string) error {
	parsed, err := openssh.Parse(args)
	if err != nil {
		return err
	}
	name := strings.TrimSuffix(parsed.Host, sshDomain)
	if err := a.reach(ctx, name); err != nil {
		return err
	}
	parsed.Host = name + sshDomain
	program, err := openssh.Program(a.getenv("PATH"))
	if err != nil {
		return err
	}
	client, err := a.sshClient(ctx)
	if err != nil {
		return err
	}
	options, err := client.Options()
	if err != nil {
		return err
	}
	if err := syscall.Exec(program, append([]string{"ssh"}, parsed.With(options)...), os.Environ()); err != nil {
		return fmt.Errorf("running %q: %w", program, err)
	}
	return nil
}

// reach says why a VM cannot be reached. SSH has no words for that.
func (a *app) reach(ctx context.Context, name string) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	stream, err := e.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("connecting by SSH: %w", err)
	}
	return stream.Close()
}

// sshDomain is what OpenSSH knows VMs by: their name and this.
const sshDomain = ".banger"

// sshIdentity is the host key of all VMs, wherever they run: SSH ends in this process.
func (a *app) sshIdentity(ctx context.Context) (ssh.Identity, error) {
	home, err := a.home()
	if err != nil {
		return ssh.Identity{}, err
	}
	return ssh.LoadIdentity(ctx, filepath.Join(home, "ssh"), "*"+sshDomain)
}

// sshClient says how OpenSSH reaches the VMs by this program.
func (a *app) sshClient(ctx context.Context) (openssh.Client, error) {
	identity, err := a.sshIdentity(ctx)
	if err != nil {
		return openssh.Client{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return openssh.Client{}, fmt.Errorf("finding banger's own program: %w", err)
	}
	proxy := append(a.sshSurroundings(), self, "vm", "ssh-proxy")
	return openssh.Client{Domain: sshDomain, User: "root", Proxy: proxy, KnownHosts: identity.KnownHosts}, nil
}

// sshSurroundings begins the proxy's command with what it would not find out by itself when OpenSSH is started elsewhere.
func (a *app) sshSurroundings() []string {
	var vars []string
	home, err := a.home()
	if err == nil && (a.getenv("BANGER_HOME") != "" || a.getenv("XDG_DATA_HOME") != "") {
		vars = append(vars, "BANGER_HOME="+home)
	}
	if host := a.daemonHost(); host != "" {
		vars = append(vars, "BANGER_HOST="+host)
	}
	if len(vars) == 0 {
		return nil
	}
	return append([]string{"env"}, vars...)
}

func newVMSSHProxy(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "ssh-proxy VM", Hidden: true, Args: exactly("a VM"),
		Short:   "Serve SSH for a VM on standard input and output; OpenSSH starts this itself",
		Example: "  banger ssh-config",
		RunE:    func(cmd *cobra.Command, args []string) error { return a.vmSSHProxy(cmd.Context(), args[0]) },
	}
}

// collectAtSSH is by how many percent the heap may grow here before it is collected. Data on its way makes much garbage
// and little that stays: with the 25 of a pull it takes one and a half times as long.
const collectAtSSH = 400

func (a *app) vmSSHProxy(ctx context.Context, name string) error {
	out, ok := a.stdout.(*os.File)
	if !ok {
		return errors.New("serving SSH: standard output is no file")
	}
	if a.getenv("GOGC") == "" {
		debug.SetGCPercent(collectAtSSH)
	}
	// Ctrl-C reaches every program on the terminal. sftp takes it for the end of a transfer, not of the connection.
	signal.Ignore(syscall.SIGINT)
	e, err := a.engine()
	if err != nil {
		return err
	}
	name = strings.TrimSuffix(name, sshDomain)
	if err := a.reach(ctx, name); err != nil {
		return err
	}
	vm, err := e.FindVM(ctx, name)
	if err != nil {
		return err
	}
	identity, err := a.sshIdentity(ctx)
	if err != nil {
		return err
	}
	open := func(ctx context.Context) (net.Conn, error) { return e.Stream(ctx, name) }
	return ssh.Serve(ctx, ssh.Stdio(a.stdin, out), ssh.Options{Open: open, HostKey: identity.HostKey, Env: vm.Env})
}

// sshConfig are the flags of ssh-config.
type sshConfig struct {
	install, uninstall bool
	dir                string
}

func newSSHConfig(a *app) *cobra.Command {
	var flags sshConfig
	cmd := &cobra.Command{
		Use: "ssh-config", Args: exactly(),
		Short: "Have OpenSSH know the VMs as VM.banger",
		Long: `Print what OpenSSH's configuration needs so that ssh, scp, sftp, rsync, git and VS Code reach every VM as VM.banger.

--install keeps it in ~/.ssh/banger.conf, which a line at the top of ~/.ssh/config includes; nothing else there changes. It
is to be run again when banger or its home have moved.`,
		Example: `  banger ssh-config --install
  ssh web.banger
  scp -r src web.banger:/srv
  rsync -a src/ web.banger:/srv/src
  banger ssh-config > ssh.conf; ssh -F ssh.conf web.banger`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.sshConfig(cmd.Context(), flags) },
	}
	cmd.Flags().BoolVar(&flags.install, "install", false, "write it where OpenSSH finds it")
	cmd.Flags().BoolVar(&flags.uninstall, "uninstall", false, "take back what --install did")
	cmd.Flags().StringVar(&flags.dir, "dir", "", "OpenSSH's directory (default ~/.ssh)")
	return cmd
}

func (a *app) sshConfig(ctx context.Context, f sshConfig) error {
	if f.install && f.uninstall {
		return usage(errors.New("--install and --uninstall exclude each other"), "pass one of them")
	}
	if !f.install && !f.uninstall {
		return a.printSSHConfig(ctx)
	}
	dir, err := sshDirectory(f.dir)
	if err != nil {
		return err
	}
	if f.uninstall {
		return a.sayChanged(openssh.Uninstall(dir))
	}
	client, err := a.sshClient(ctx)
	if err != nil {
		return err
	}
	block, err := client.Block()
	if err != nil {
		return err
	}
	return a.sayChanged(openssh.Install(dir, block))
}

func (a *app) printSSHConfig(ctx context.Context) error {
	client, err := a.sshClient(ctx)
	if err != nil {
		return err
	}
	block, err := client.Block()
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(a.stdout, block)
	return err
}

func (a *app) sayChanged(changed bool, err error) error {
	if err != nil {
		return err
	}
	text := "OpenSSH's configuration was as it should be"
	if changed {
		text = "OpenSSH's configuration was changed"
	}
	_, err = fmt.Fprintln(a.stdout, text)
	return err
}

// sshDirectory is where OpenSSH looks: in the home that the password file has, whatever HOME says (ssh.c,
// process_config_files).
func sshDirectory(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	self, err := user.Current()
	if err != nil || !filepath.IsAbs(self.HomeDir) {
		return "", usage(fmt.Errorf("finding OpenSSH's directory: the user has no home (%w)", err), "pass --dir")
	}
	return filepath.Join(self.HomeDir, ".ssh"), nil
}
