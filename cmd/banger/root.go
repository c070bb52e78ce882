package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/guest/embedded"
)

// system is what banger sees of the process it runs in.
type system struct {
	stdin          *os.File
	stdout, stderr io.Writer
	lookupEnv      func(string) (string, bool)
	uid            int
	interrupts     *interrupts
}

func (s system) getenv(name string) string {
	value, _ := s.lookupEnv(name)
	return value
}

// app is one run of the command line.
type app struct {
	system
	progress *progress
	host     string // the flag --host
	shown    string // the flag --progress
}

// execute runs one command line to its end and returns the exit code.
func execute(ctx context.Context, args []string, sys system) int {
	a := &app{system: sys, progress: newProgress(sys)}
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(sys.stdin)
	root.SetOut(sys.stdout)
	root.SetErr(sys.stderr)
	err := root.ExecuteContext(ctx)
	if err != nil { // perhaps of the command line, before PersistentPreRunE
		_ = a.chooseProgress()
	}
	a.progress.clear()
	return a.exitCode(ctx, err)
}

// chooseProgress has steps and errors shown as the user wants them.
func (a *app) chooseProgress() error { return a.progress.choose(a.shown, a.getenv("BANGER_PROGRESS")) }

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "banger",
		Short: "Boot any container image as a microVM, as an ordinary user",
		Long: `banger pulls a container image, turns it into a bootable ext4 disk, and boots it as a microVM.
It needs no root, no daemon, and nothing inside the image.

As with docker, pull, images, run, exec and ps are short for image pull, image ls, vm run, vm exec and vm ls.`,
		Example: `  banger kernel import --from-host
  banger image pull debian:bookworm
  banger vm run --rm debian:bookworm -- cat /etc/os-release`,
		Version:           version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              noSuchCommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.chooseProgress() },
	}
	root.SetFlagErrorFunc(flagError)
	root.PersistentFlags().StringVar(&a.host, "host", "",
		"unix:///PATH of the socket of a banger daemon, which does the work (default: $BANGER_HOST, or do it here)")
	root.PersistentFlags().StringVar(&a.shown, "progress", "",
		"how steps are shown: auto, tty (bars), plain (lines), json (lines for programs) or none (default: $BANGER_PROGRESS, or auto)")
	root.AddCommand(newImage(a), newKernel(a), newVM(a), newSSHConfig(a), newSystem(a), newDaemon(a), newDoctor(a), newVersion(a),
		newLogin(a), newLogout(a))
	for _, short := range []*cobra.Command{newImagePull(a), newVMRun(a), newShortImages(a), newShortList(a), newVMExec(a)} {
		short.Hidden = true
		root.AddCommand(short)
	}
	checkHelp(root)
	return root
}

// checkHelp has cobra's help command refuse what is no command: it takes that for arguments of the last one that is.
func checkHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	help, _, _ := root.Find([]string{"help"})
	help.Args = func(_ *cobra.Command, args []string) error {
		found, rest, err := root.Find(args)
		if err != nil {
			return flagError(root, err)
		}
		return noSuchCommand(found, rest)
	}
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: noSuchCommand,
		Example: commands[0].Example,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the versions of banger and of its guest agent", Args: exactly(),
		Example: "  banger version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(a.stdout, "banger %s\n", version())
			if host := a.daemonHost(); host != "" {
				err = errors.Join(err, a.printDaemonVersion(cmd.Context(), host))
			}
			return err
		},
	}
}

// printDaemonVersion prints the versions of the daemon that a --host names.
func (a *app) printDaemonVersion(ctx context.Context, host string) error {
	client, err := a.client(host)
	if err != nil {
		return err
	}
	v, err := client.Versions(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "daemon %s, guest agent %s, API %s\n", v.Banger, v.Agent, v.API)
	return err
}

func version() string { return ownVersion() + ", guest agent " + embedded.Version() }

func ownVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

// home is the absolute path of BANGER_HOME, or of banger's directory below XDG_DATA_HOME (XDG Base Directory Specification).
func (a *app) home() (string, error) {
	if dir := a.getenv("BANGER_HOME"); dir != "" {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("finding banger's home: %w", err)
		}
		return dir, nil
	}
	if dir := a.getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "banger"), nil
	}
	if dir := a.getenv("HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, ".local", "share", "banger"), nil
	}
	return "", usage(fmt.Errorf("finding banger's home: neither BANGER_HOME nor HOME is set"), "set BANGER_HOME to a directory")
}

func (a *app) runtimeDir() string {
	if dir := a.getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "banger")
	}
	return fmt.Sprintf("/tmp/banger-%d", a.uid)
}
