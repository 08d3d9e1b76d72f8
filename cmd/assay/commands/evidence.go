package commands

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/dossier"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/endorsement/vendors"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/wire"
)

func evidenceCommand() *cobra.Command {
	return group("evidence", "What machines proved: take it along, check it offline", evidenceExportCommand(), evidenceVerifyCommand())
}

func evidenceExportCommand() *cobra.Command {
	var digest, out string
	c := &cobra.Command{
		Use: "export ID", Short: "Write a quote with everything that is needed to check it into one file", Args: exactly(1),
		Long: "Takes the last accepted quote of a machine, or the one that `assay node history ID -o json` names, with its nonce, keys, measurement\n" +
			"list, boot log and the policy documents of the verdict. `assay evidence verify` checks the file without the server.",
		Example: "  assay evidence export ID --out node.json",
	}
	c.RunE = onNode(func(c *cobra.Command, server *client.Client, id attest.AgentID) error {
		var asked attest.Digest
		if digest != "" {
			var err error
			if asked, err = attest.ParseDigest(digest); err != nil {
				return cli.Usage(fmt.Errorf("--quote: %w", err))
			}
		}
		e, err := server.EvidenceOf(c.Context(), id, asked)
		if err != nil {
			return err
		}
		d, err := dossierOf(c, server, e)
		if err != nil {
			return err
		}
		text, err := d.Encode()
		if err != nil {
			return err
		}
		if out == "" {
			_, err = c.OutOrStdout().Write(text)
			return err
		}
		return durable.WriteFile(out, text, 0o600)
	})
	c.Flags().StringVar(&digest, "quote", "", "digest of the quote (default: the last accepted one)")
	c.Flags().StringVarP(&out, "out", "f", "", "file to write instead of standard output")
	return c
}

// dossierOf collects the documents of the evidence, each by its digest.
func dossierOf(c *cobra.Command, server *client.Client, e api.Evidence) (dossier.Dossier, error) {
	raw, err := wire.UnpackQuote(e.Quote)
	if err != nil {
		return dossier.Dossier{}, fmt.Errorf("quote: %w", err)
	}
	d := dossier.Dossier{
		Node: e.Node, Boot: e.Boot, At: e.At, Nonce: e.Nonce, Quote: raw, AK: e.AK, EK: e.EK, Chain: e.Chain, BootLog: e.BootLog,
		Policies: []dossier.Policy{}, RefusedIMAPolicies: e.RefusedIMAPolicies,
	}
	list := e.ListBytes
	if list == nil {
		list = []byte(e.List)
	}
	d.List = d.Covered(list)
	for _, ref := range e.Policies {
		document, err := server.Policy(c.Context(), ref.Digest.String())
		if err != nil {
			return dossier.Dossier{}, fmt.Errorf("policy %s (%s), which the verdict was made with: %w", cli.Printable(ref.Name), ref.Digest, err)
		}
		d.Policies = append(d.Policies, dossier.Policy{Ref: ref, Document: document})
	}
	return d, nil
}

func evidenceVerifyCommand() *cobra.Command {
	var rootFiles []string
	c := withOutput(&cobra.Command{
		Use: "verify FILE", Short: "Check an exported file without the server, and tell the verdict by the exit code", Args: exactly(1),
		Long: "Checks the quote's signature and nonce, replays list and boot log to the quoted PCRs and appraises them under the documents in the file.\n" +
			"The file cannot prove whose attestation key signed, nor when: compare node, key and time with what you know.\n" +
			"The exit code is 0 for Trusted, 3 for Failed, 4 for Unappraised; 1 when the file is damaged or cannot be read.",
	})
	c.RunE = func(c *cobra.Command, args []string) error {
		roots, err := believedRoots(rootFiles)
		if err != nil {
			return err
		}
		text, err := readBounded(args[0], dossier.MaxBytes)
		if err != nil {
			return err
		}
		d, err := dossier.Parse(text)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		r, err := d.Verify(roots)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if err := printAs(c, r, func(w io.Writer) error { describeResult(w, d, r); return nil }); err != nil {
			return err
		}
		return exitBy(r.Verdict)
	}
	c.Flags().StringArrayVar(&rootFiles, "root", nil, "PEM file of roots that endorse TPMs, beside the vendors' that this program brings along (repeatable)")
	return c
}

// exitBy tells a verdict by the exit code.
func exitBy(v attest.Verdict) error {
	switch v {
	case attest.Trusted:
		return nil
	case attest.Failed:
		return &cli.ExitCode{Code: ExitFailed}
	}
	return &cli.ExitCode{Code: ExitNotTrusted}
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("read %s: it has more than %d bytes", path, limit)
	}
	return text, nil
}

// believedRoots are the vendors' and those of files.
func believedRoots(files []string) (*endorsement.Roots, error) {
	roots := endorsement.NewRoots()
	certificates, err := vendors.All()
	if err != nil {
		return nil, err
	}
	for _, certificate := range certificates {
		if _, err := roots.AddPEM(certificate.PEM); err != nil {
			return nil, fmt.Errorf("vendor certificate %s: %w", certificate.Fingerprint, err)
		}
	}
	for _, name := range files {
		text, err := readBounded(name, 1<<20)
		if err != nil {
			return nil, fmt.Errorf("--root: %w", err)
		}
		if _, err := roots.AddPEM(text); err != nil {
			return nil, fmt.Errorf("--root %s: %w", name, err)
		}
	}
	return roots, nil
}

// describeResult prints what a dossier proves, in the words of `node show`.
func describeResult(w io.Writer, d dossier.Dossier, r dossier.Result) {
	line := func(name, format string, values ...any) {
		fmt.Fprintf(w, "%-14s %s\n", name+":", cli.Printable(fmt.Sprintf(format, values...)))
	}
	line("Node", "%s (not proven)", d.Node)
	line("Verdict", "%s of %s (the time is not proven)", r.Verdict, when(d.At))
	if r.Clock != nil {
		line("Quote", "%s, nonce %s", r.Quote, d.Nonce)
		line("Signed by", "%s", hex.EncodeToString(r.AKName))
		line("TPM clock", "%s", r.Clock)
		identity := "not endorsed: " + r.Unendorsed
		if r.Unendorsed == "" {
			identity = "endorsed by " + r.EndorsedBy
		}
		if r.BoundToEK {
			identity += "; the key that signed is a child of the EK"
		}
		line("Identity", "%s", identity)
		line("List", "%d entries proven", r.Entries)
		line("Policies", "%s", refNames(r.Policies))
	}
	for _, f := range r.Failures {
		describeFailure(line, f)
	}
}
