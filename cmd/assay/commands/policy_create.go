package commands

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/ima"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/policy"
)

func policyCreateCommand() *cobra.Command {
	return group("create", "Make a policy document", createRuntimeCommand(), createPcrCommand())
}

// createOptions are the flags of `policy create runtime`.
type createOptions struct {
	tree, list, out, hash string
	imaPolicies           []string
	skip                  []string
	excludes, earlyBoot   []string
	allFiles              bool
}

func createRuntimeCommand() *cobra.Command {
	var o createOptions
	c := &cobra.Command{
		Use: "runtime NAME", Short: "Make a Runtime document from a directory tree, an IMA list, or both", Args: exactly(1),
		Long: "Reads the tree of a machine that is known to be good (its root, mounted anywhere), or the list that its kernel made, and writes the\n" +
			"document to standard output or --out. It asks no server.",
		Example: "  assay policy create runtime web --tree / --skip /proc --skip /sys --ima-policy /etc/ima/ima-policy --out web.yaml\n" +
			"  assay policy create runtime web --list /sys/kernel/security/ima/ascii_runtime_measurements",
		RunE: func(c *cobra.Command, args []string) error {
			if o.tree == "" && o.list == "" {
				return cli.Usage(errors.New("policy create runtime needs --tree or --list"))
			}
			doc, err := o.build(c, args[0])
			if err != nil {
				return err
			}
			for _, warning := range doc.Warnings() {
				fmt.Fprintf(c.ErrOrStderr(), "warning: %s\n", cli.Printable(warning))
			}
			if o.out == "" {
				_, err = c.OutOrStdout().Write(doc.Bytes())
				return err
			}
			return durable.WriteFile(o.out, doc.Bytes(), 0o644)
		},
	}
	c.Flags().StringVar(&o.tree, "tree", "", "root of the machine's file tree")
	c.Flags().StringVar(&o.list, "list", "", "IMA measurement list, ASCII or binary; - for standard input")
	c.Flags().StringVarP(&o.out, "out", "f", "", "file to write instead of standard output")
	c.Flags().StringVar(&o.hash, "hash", "sha256", "the machine's ima_hash: sha1, sha256, sha384 or sha512")
	c.Flags().StringArrayVar(&o.imaPolicies, "ima-policy", nil, "file of an approved IMA policy (repeatable)")
	c.Flags().StringArrayVar(&o.skip, "skip", nil, "directory of the tree, as the machine names it, that is not entered (repeatable)")
	c.Flags().StringArrayVar(&o.excludes, "exclude", nil, "pattern of paths that are not judged (repeatable)")
	c.Flags().StringArrayVar(&o.earlyBoot, "early-boot", nil, "pattern of paths that may come before the IMA policy (repeatable)")
	c.Flags().BoolVar(&o.allFiles, "all-files", false, "list every regular file, not only what the host's IMA policy measures")
	return c
}

func (o createOptions) build(c *cobra.Command, name string) (*policy.Document, error) {
	hash, err := attest.ParseHash(o.hash)
	if err != nil {
		return nil, cli.Usage(fmt.Errorf("--hash: %w", err))
	}
	options := policy.BuildOptions{
		Name: name, Hash: hash, Skip: o.skip, Excludes: o.excludes, EarlyBoot: o.earlyBoot, Progress: progressTo(c.ErrOrStderr()),
	}
	if o.allFiles {
		options.Coverage = policy.AllFiles
	}
	if o.tree != "" {
		if info, err := os.Stat(o.tree); err != nil || !info.IsDir() {
			return nil, cli.Usage(fmt.Errorf("--tree %s is not a directory that can be read: %w", o.tree, errors.Join(err)))
		}
		options.Tree = os.DirFS(o.tree)
	}
	if o.list != "" {
		list, err := readList(c, o.list)
		if err != nil {
			return nil, err
		}
		options.List = &list
	}
	for _, path := range o.imaPolicies {
		text, err := readInput(c, path)
		if err != nil {
			return nil, fmt.Errorf("--ima-policy: %w", err)
		}
		options.IMAPolicies = append(options.IMAPolicies, text)
	}
	return policy.BuildRuntime(c.Context(), options)
}

// readList reads a measurement list in either form: an ASCII line begins with a digit or a blank, a binary one with the PCR in four bytes, of which the second is zero.
func readList(c *cobra.Command, path string) (ima.List, error) {
	text, err := readInput(c, path)
	if err != nil {
		return ima.List{}, fmt.Errorf("--list: %w", err)
	}
	parse := ima.ParseASCII
	if len(text) > 1 && bytes.IndexByte(text[:2], 0) >= 0 {
		parse = ima.ParseBinary
	}
	list, err := parse(text)
	if err != nil {
		return ima.List{}, fmt.Errorf("--list %s: %w", path, err)
	}
	return list, nil
}

// progressTo tells about every second how far a tree was read.
func progressTo(w io.Writer) func(policy.BuildProgress) {
	last := time.Now()
	return func(p policy.BuildProgress) {
		if time.Since(last) < time.Second {
			return
		}
		last = time.Now()
		fmt.Fprintf(w, "%d files seen, %d listed, %d MiB read: %s\n", p.Seen, p.Listed, p.Bytes>>20, cli.Printable(p.Path))
	}
}
