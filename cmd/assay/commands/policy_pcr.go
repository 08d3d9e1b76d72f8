package commands

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/wire"
)

func createPcrCommand() *cobra.Command {
	var nodes []string
	var pcrs, out string
	c := &cobra.Command{
		Use: "pcr NAME", Short: "Make a Pcr document from the last accepted quotes of enrolled machines", Args: exactly(1),
		Long: "Takes the PCR values of machines that are known to be good from the server and writes the document to standard output or --out.\n" +
			"Each quote's signature is verified once more, here. Each PCR may then have the value that any of the machines showed.",
		Example: "  assay policy create pcr web-boot --node ID --out web-boot.yaml",
		RunE: func(c *cobra.Command, args []string) error {
			if len(nodes) == 0 {
				return cli.Usage(errors.New("policy create pcr needs --node"))
			}
			chosen, err := parsePCRs(pcrs)
			if err != nil {
				return cli.Usage(fmt.Errorf("--pcrs: %w", err))
			}
			server, err := connect(c)
			if err != nil {
				return err
			}
			machines := make([]quote.Verified, len(nodes))
			for i, node := range nodes {
				if machines[i], err = goldenQuote(c, server, node); err != nil {
					return fmt.Errorf("node %s: %w", cli.Printable(node), err)
				}
			}
			doc, err := policy.BuildPcr(args[0], chosen, machines...)
			if err != nil {
				return err
			}
			if out == "" {
				_, err = c.OutOrStdout().Write(doc.Bytes())
				return err
			}
			return durable.WriteFile(out, doc.Bytes(), 0o644)
		},
	}
	c.Flags().StringArrayVar(&nodes, "node", nil, "id of a machine that is known to be good (repeatable)")
	c.Flags().StringVar(&pcrs, "pcrs", "0-7", "the PCRs that the document lists, such as 0-4,7")
	c.Flags().StringVarP(&out, "out", "f", "", "file to write instead of standard output")
	return c
}

// goldenQuote asks for the last accepted quote of a machine and verifies it.
func goldenQuote(c *cobra.Command, server *client.Client, node string) (quote.Verified, error) {
	id, err := attest.ParseAgentID(node)
	if err != nil {
		return quote.Verified{}, cli.Usage(err)
	}
	evidence, err := server.Evidence(c.Context(), id)
	if err != nil {
		return quote.Verified{}, err
	}
	return verifyEvidence(evidence)
}

// verifyEvidence checks that the quote is signed by the AK over the nonce; whether both are the machine's stands with the server.
func verifyEvidence(e api.Evidence) (quote.Verified, error) {
	ak, failures, err := endorsement.ParseAK(e.AK)
	if err != nil {
		return quote.Verified{}, err
	}
	raw, err := wire.UnpackQuote(e.Quote)
	if err != nil {
		return quote.Verified{}, err
	}
	q, err := quote.Parse(raw)
	if err != nil {
		return quote.Verified{}, err
	}
	if len(raw.Selections) != 1 {
		return quote.Verified{}, fmt.Errorf("quote of %d selections, not 1", len(raw.Selections))
	}
	verified, more := quote.Verify(q, quote.Expected{AK: ak, Nonce: []byte(e.Nonce), Selection: raw.Selections[0]})
	if failures = append(failures, more...); len(failures) > 0 {
		return quote.Verified{}, fmt.Errorf("the quote does not hold: %s: %s", failures[0].ID, cli.Printable(failures[0].Detail))
	}
	return verified, nil
}

// parsePCRs reads a list such as "0-4,7" as a selection of the quoted bank.
func parsePCRs(text string) (pcr.Selection, error) {
	chosen := pcr.Select(attest.SHA256)
	for _, part := range strings.Split(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.Atoi(first)
		until, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || from < 0 || until >= pcr.Count || from > until {
			return pcr.Selection{}, fmt.Errorf("%q is no PCR from 0 to %d and no range of them", part, pcr.Count-1)
		}
		for p := from; p <= until; p++ {
			chosen = chosen.With(p)
		}
	}
	return chosen, nil
}
