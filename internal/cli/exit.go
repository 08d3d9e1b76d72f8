package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// The exit codes that every program shares. Programs add their own 3 and 4 and document them in their help.
const (
	ExitOK = 0
	// ExitError: what was asked for could not be done.
	ExitError = 1
	// ExitUsage: the command line or the configuration is wrong; nothing was done.
	ExitUsage = 2
	// ExitState: the program's state directory or database cannot be opened; nothing else was tried.
	ExitState = 5
)

// ExitCode is an error with an exit code of its own. A nil Err exits without a word, for commands that have said everything.
type ExitCode struct {
	Code int
	Err  error
}

// Error returns the text of Err.
func (e *ExitCode) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *ExitCode) Unwrap() error { return e.Err }

// Usage marks err as a mistake of the caller: exit code ExitUsage.
func Usage(err error) error { return &ExitCode{Code: ExitUsage, Err: err} }

// Execute runs a program's root command with args and returns its exit code. Errors go to stderr, escaped as a table's cells and after
// the program's name; mistyped flags get the nearest right one, mistyped commands too (cobra does that itself).
func Execute(ctx context.Context, root *cobra.Command, args []string, stderr io.Writer) int {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return Usage(suggestFlag(cmd, err)) })
	root.SetArgs(args)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	var exit *ExitCode
	if !errors.As(err, &exit) {
		exit = &ExitCode{Code: ExitError, Err: err}
	}
	// Cobra has no type for this one.
	if strings.HasPrefix(err.Error(), "unknown command ") {
		exit.Code = ExitUsage
	}
	if exit.Err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", root.Name(), printableLines(err.Error()))
	}
	return exit.Code
}
