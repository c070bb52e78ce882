package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/fault"
)

// exitOfRun is the exit code of `vm run` when banger itself failed, as it is docker's: every other code may be the
// guest command's own.
const exitOfRun = 125

// exitOfPipe is what shells show for a program that SIGPIPE ended.
const exitOfPipe = 128 + int(syscall.SIGPIPE)

// guestExit is the exit code of a command in the guest, on its way to becoming banger's own.
type guestExit int

func (g guestExit) Error() string {
	return fmt.Sprintf("the command in the guest exited with %d", int(g))
}

// imagesDiffer is not an error but the answer of `image diff --exit-code`, as diff(1) gives it.
type imagesDiffer struct{}

func (imagesDiffer) Error() string { return "the images differ" }

// exitOfDifference is the exit code for imagesDiffer.
const exitOfDifference = 1

// codedError is an error of `vm run`, whose exit code does not follow from its kind.
type codedError struct {
	error
	code int
}

func (c codedError) Unwrap() error { return c.error }

// exitCode prints the error, with its hint, and returns the exit code (docs/exit-codes.md).
func (a *app) exitCode(ctx context.Context, err error) int {
	if err == nil {
		return 0
	}
	var guest guestExit
	if errors.As(err, &guest) {
		return int(guest)
	}
	if errors.Is(err, imagesDiffer{}) {
		return exitOfDifference
	}
	if errors.Is(context.Cause(ctx), errInterrupted) {
		if !a.progress.fail(fault.New(fault.Interrupted, errInterrupted, "")) {
			_, _ = fmt.Fprintln(a.stderr, "banger: interrupted; nothing was left half-made")
		}
		return int(fault.Interrupted)
	}
	if isOutputClosed(err) {
		return exitOfPipe // nobody reads us any more, so there is nobody to tell
	}
	if !a.progress.fail(err) {
		a.printError(err)
	}
	var coded codedError
	if errors.As(err, &coded) {
		return coded.code
	}
	return int(fault.KindOf(err))
}

// isOutputClosed tells a pipe behind standard output or error that nobody reads from a connection that broke, which has the
// same error number.
func isOutputClosed(err error) bool {
	var failed *os.PathError
	return errors.As(err, &failed) && errors.Is(failed, syscall.EPIPE) &&
		(failed.Path == os.Stdout.Name() || failed.Path == os.Stderr.Name())
}

func (a *app) printError(err error) {
	_, _ = fmt.Fprintf(a.stderr, "banger: error: %s\n", printable(err.Error()))
	if hint := fault.HintOf(err); hint != "" {
		_, _ = fmt.Fprintf(a.stderr, "banger: hint: %s\n", printable(hint))
	}
}

// printable leaves out what would move a terminal's cursor, or worse: an error may quote a registry, an image or a guest.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if c != '\n' && c != '\t' && unicode.IsControl(c) {
			return -1
		}
		return c
	}, text)
}

// usage marks an error of the command line.
func usage(err error, hint string) error { return fault.New(fault.Usage, err, hint) }

func flagError(cmd *cobra.Command, err error) error {
	return usage(err, fmt.Sprintf("`%s --help` lists the flags", cmd.CommandPath()))
}

func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("%s has no command %q", cmd.CommandPath(), args[0])
	hint := fmt.Sprintf("`%s --help` lists the commands", cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return usage(err, hint)
}

// exactly demands the named arguments.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) && !slices.Contains(args, "") {
			return nil
		}
		want := strings.Join(names, " and ")
		if want == "" {
			want = "no arguments"
		}
		err := fmt.Errorf("%s takes %s; got %q", cmd.CommandPath(), want, args)
		return usage(err, "for example:\n"+cmd.Example)
	}
}
