package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/banger-vm/banger/internal/engine"
)

// registryFlags adds the flags of what asks a registry.
func registryFlags(cmd *cobra.Command, options *engine.RegistryOptions) {
	flags := cmd.Flags()
	flags.BoolVar(&options.Insecure, "insecure", false,
		"do not check the registry's certificate, and use plain HTTP where it has no TLS")
	flags.StringVar(&options.CAFile, "tls-ca", "", "file of CA certificates in PEM to trust besides the host's")
	flags.StringVar(&options.CertDir, "cert-dir", "",
		"directory with CAs (*.crt) and client certificates (*.cert, *.key) for the registry, in the place of certs.d's")
}

func newLogin(a *app) *cobra.Command {
	var options engine.LoginOptions
	var fromStdin, asJSON bool
	cmd := &cobra.Command{
		Use:   "login [REGISTRY]",
		Short: "Log in to a registry",
		Long: `Log in to a registry; without REGISTRY, to Docker Hub.

The registry checks the user and the password. Then they are stored where docker and podman find them, too: by the
credential helper that is configured, or else in docker's config.json, or in the file that REGISTRY_AUTH_FILE names.`,
		Example: `  banger login --username me ghcr.io
  pass show ghcr.io | banger login --username me --password-stdin ghcr.io
  banger login --username me --tls-ca ca.pem registry.example:5000`,
		Args: atMostOne("a REGISTRY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			options.Registry = strings.Join(args, "")
			return a.login(cmd.Context(), options, fromStdin, asJSON)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&options.Username, "username", "u", "", "name of the user (default: ask on the terminal)")
	flags.BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input (default: ask on the terminal)")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	registryFlags(cmd, &options.RegistryOptions)
	return cmd
}

// atMostOne allows one named argument.
func atMostOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return exactly(name)(cmd, args)
	}
}

func (a *app) login(ctx context.Context, options engine.LoginOptions, fromStdin, asJSON bool) error {
	if err := a.askForLogin(ctx, &options, fromStdin); err != nil {
		return err
	}
	login, err := engine.Login(ctx, options)
	if err != nil {
		return err
	}
	if asJSON {
		return a.printLogin(login)
	}
	_, err = fmt.Fprintf(a.stdout, "logged in to %s as %s; stored in %s\n",
		login.Registry, login.Username, strings.Join(login.Places, ", "))
	if login.Unchecked {
		_, _ = fmt.Fprintf(a.stderr, "banger: %s has not asked for the password: it may be wrong\n", login.Registry)
	}
	return err
}

// printLogin prints what logging in or out has done, for programs.
func (a *app) printLogin(login any) error {
	return a.printJSON(struct {
		Schema int `json:"schema"`
		Login  any `json:"login"`
	}{1, login})
}

// maxPassword is the longest password or token that is read, in bytes.
const maxPassword = 1 << 20

// askForLogin reads what the flags leave open.
func (a *app) askForLogin(ctx context.Context, options *engine.LoginOptions, fromStdin bool) error {
	if fromStdin {
		if options.Username == "" {
			return usage(errors.New("--password-stdin goes with --username"), "pass --username NAME")
		}
		password, err := unlessOver(ctx, func() (string, error) {
			text, err := io.ReadAll(io.LimitReader(a.stdin, maxPassword))
			return string(text), err
		})
		options.Password = strings.TrimRight(password, "\r\n")
		if err == nil && options.Password == "" {
			err = usage(errors.New("standard input has no password"), "")
		}
		return err
	}
	if !a.onTerminal() {
		err := errors.New("there is no terminal to ask for a password on")
		return usage(err, "pass --username NAME and --password-stdin")
	}
	if options.Username == "" {
		name, err := a.prompt(ctx, "Username: ", false)
		if err != nil {
			return err
		}
		options.Username = strings.TrimSpace(name)
	}
	var err error
	options.Password, err = a.prompt(ctx, "Password: ", true)
	return err
}

// prompt asks for a line on the terminal, which does not show a secret. The terminal is as it was afterwards, also when
// ctx ends first.
func (a *app) prompt(ctx context.Context, question string, secret bool) (string, error) {
	fd := int(a.stdin.Fd())
	state, err := term.GetState(fd)
	if err == nil && secret { // before the question: somebody may be quick to answer
		err = hideInput(fd)
	}
	if err != nil {
		return "", fmt.Errorf("preparing the terminal: %w", err)
	}
	defer func() { _ = term.Restore(fd, state) }()
	_, _ = fmt.Fprint(a.stderr, question)
	line, err := a.readLine(ctx)
	if secret || err != nil {
		_, _ = fmt.Fprintln(a.stderr)
	}
	return line, err
}

// hideInput has a terminal show nothing of what is typed (termios(3)).
func hideInput(fd int) error {
	settings, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	settings.Lflag &^= unix.ECHO
	return unix.IoctlSetTermios(fd, unix.TCSETS, settings)
}

// readLine reads a line, without its end, unless ctx ends first.
func (a *app) readLine(ctx context.Context) (string, error) {
	return unlessOver(ctx, func() (string, error) {
		line, err := bufio.NewReader(a.stdin).ReadString('\n') // the terminal gives a line at a time
		if err != nil {
			err = fmt.Errorf("reading from the terminal: %w", err)
		}
		return strings.TrimRight(line, "\r\n"), err
	})
}

// unlessOver returns what read returns, or ctx's cause if ctx ends first: a read of standard input cannot be ended.
func unlessOver(ctx context.Context, read func() (string, error)) (string, error) {
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := read()
		answers <- answer{text, err}
	}()
	select {
	case got := <-answers:
		return got.text, got.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func newLogout(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "logout [REGISTRY]", Short: "Log out of a registry", Args: atMostOne("a REGISTRY"),
		Long: `Log out of a registry; without REGISTRY, of Docker Hub.

The credentials are removed from where login stores them. Where others have stored some, they stay, and it is said
where.`,
		Example: "  banger logout ghcr.io",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.logout(cmd.Context(), strings.Join(args, ""), asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) logout(ctx context.Context, registry string, asJSON bool) error {
	logout, err := engine.Logout(ctx, registry)
	if err != nil {
		return err
	}
	if asJSON {
		return a.printLogin(logout)
	}
	_, err = fmt.Fprintf(a.stdout, "logged out of %s; removed from %s\n", logout.Registry, strings.Join(logout.Places, ", "))
	if len(logout.Remaining) > 0 {
		_, _ = fmt.Fprintf(a.stderr, "banger: there are other credentials for %s in %s\n",
			logout.Registry, strings.Join(logout.Remaining, ", "))
	}
	return err
}
