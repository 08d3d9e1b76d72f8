package commands

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/internal/cli"
)

func endorsementCommand() *cobra.Command {
	return group("endorsement", "Certificates and listed keys that vouch for TPMs",
		endorsementAddCommand(), endorsementListCommand(), endorsementCheckCommand(), endorsementRemoveCommand())
}

func endorsementAddCommand() *cobra.Command {
	var ek, note string
	var emulated bool
	c := withOutput(&cobra.Command{
		Use: "add FILE | add --ek FILE|HASH", Short: "Accept the vendor roots and intermediates of a PEM file, or one endorsement key",
		Long: `Accept the vendor roots and intermediates of a PEM file.

With --ek accept one endorsement key without a certificate, for clouds whose TPMs have none: by its hash (the agent's default id) or a PEM file
with its public key. It counts as endorsed with the label Listed, never as a vendor's.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case (ek == "") == (len(args) == 0):
				return cli.Usage(errors.New("give one of FILE and --ek"))
			case ek == "" && note != "":
				return cli.Usage(errors.New("--note goes with --ek"))
			case ek != "" && emulated:
				return cli.Usage(errors.New("--emulated goes with FILE"))
			case ek != "":
				return addListedKey(c, ek, note)
			}
			if emulated {
				return addRoots(c, args[0], (*client.Client).AddEmulatedRoots)
			}
			return addRoots(c, args[0], (*client.Client).AddRoots)
		},
	})
	c.Flags().BoolVar(&emulated, "emulated", false, "they endorse TPM emulators: what they vouch for passes only where an assignment names them")
	c.Flags().StringVar(&ek, "ek", "", "an endorsement key: its hash, or a PEM file with its public key")
	c.Flags().StringVar(&note, "note", "", "why the key is accepted, for people")
	return c
}

func addRoots(c *cobra.Command, path string, add func(*client.Client, context.Context, []byte) (api.RootsAdded, error)) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read certificates: %w", err)
	}
	server, err := connect(c)
	if err != nil {
		return err
	}
	added, err := add(server, c.Context(), text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return printAs(c, added, func(w io.Writer) error {
		for _, r := range added.Added {
			fmt.Fprintf(w, "added %s (%s)\n", cli.Printable(r.Subject), r.Fingerprint)
		}
		return nil
	})
}

func addListedKey(c *cobra.Command, ek, note string) error {
	id, err := keyHash(ek)
	if err != nil {
		return err
	}
	server, err := connect(c)
	if err != nil {
		return err
	}
	key, err := server.ListKey(c.Context(), api.ListedKey{EK: id, Note: note})
	if err != nil {
		return err
	}
	return printAs(c, key, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "listed %s\n", key.EK)
		return err
	})
}

// keyHash returns the hash of an endorsement key that is named by its hash or by a PEM file with its public key.
func keyHash(named string) (attest.AgentID, error) {
	if id := attest.AgentID(strings.ToLower(named)); (api.ListedKey{EK: id}).Validate() == nil {
		return id, nil
	}
	text, err := os.ReadFile(named)
	if err != nil {
		return "", fmt.Errorf("--ek: it is no hash of 64 hexadecimal digits, and no file: %w", err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || strings.TrimSpace(string(rest)) != "" {
		return "", fmt.Errorf("--ek: %s is not one PUBLIC KEY in PEM", named)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("--ek: %s: %w", named, err)
	}
	// The hash is that of the canonical encoding, which is what a server computes from the TPM's own structure.
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("--ek: %s: %w", named, err)
	}
	return attest.EKHash(spki), nil
}

func endorsementListCommand() *cobra.Command {
	return withOutput(&cobra.Command{
		Use: "list", Short: "List the accepted vendor certificates and the listed endorsement keys", Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			server, err := connect(c)
			if err != nil {
				return err
			}
			roots, err := server.Roots(c.Context())
			if err != nil {
				return err
			}
			keys, err := server.ListedKeys(c.Context())
			if err != nil {
				return err
			}
			return printAs(c, endorsers{Certificates: roots, Keys: keys}, func(w io.Writer) error {
				table := cli.NewTable("DIGEST", "SUBJECT", "NOT AFTER", "EMULATED", "ORIGIN")
				for _, r := range roots {
					table.Row(r.Fingerprint.String(), r.Subject, when(r.NotAfter), yes(r.Emulated), r.Origin)
				}
				for _, k := range keys {
					table.Row(string(k.EK), "endorsement key "+k.Note, "-", "-", "listed by "+k.By)
				}
				return table.Print(w)
			})
		},
	})
}

// endorsers is what -o json prints of them.
type endorsers struct {
	Certificates []api.Root      `json:"certificates"`
	Keys         []api.ListedKey `json:"keys"`
}

func endorsementCheckCommand() *cobra.Command {
	return withOutput(&cobra.Command{
		Use: "check ID", Short: "Say whether a registered agent's EK leads to an accepted root", Args: exactly(1),
		Long: "Exits with 0 when the EK is endorsed and with 3 when it is not.",
		RunE: func(c *cobra.Command, args []string) error {
			server, err := connect(c)
			if err != nil {
				return err
			}
			check, err := server.CheckEndorsement(c.Context(), attest.AgentID(args[0]))
			if err != nil {
				return err
			}
			err = printAs(c, check, func(w io.Writer) error {
				switch {
				case check.Endorsed && check.EndorsedBy == "":
					fmt.Fprintf(w, "%s: a person listed the key; no vendor vouches for it\n", cli.Printable(check.Label))
				case check.Endorsed:
					fmt.Fprintf(w, "endorsed by %s\n", cli.Printable(check.EndorsedBy))
				}
				if check.Emulated {
					fmt.Fprintln(w, "EMULATED: that root endorses emulators; an assignment has to name it")
				}
				for _, f := range check.Failures {
					fmt.Fprintf(w, "%s: %s\n", f.ID, cli.Printable(f.Detail))
				}
				return nil
			})
			if err == nil && !check.Endorsed {
				return &cli.ExitCode{Code: ExitFailed}
			}
			return err
		},
	})
}

func endorsementRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove DIGEST", Short: "Accept a vendor certificate or a listed key no longer; enrolled machines stay enrolled", Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			if id := attest.AgentID(strings.ToLower(args[0])); (api.ListedKey{EK: id}).Validate() == nil {
				return removeListedKey(c, id)
			}
			fingerprint, err := attest.ParseDigest(args[0])
			if err != nil {
				return cli.Usage(err)
			}
			server, err := connect(c)
			if err != nil {
				return err
			}
			if err := server.RemoveRoot(c.Context(), fingerprint); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "removed %s\n", fingerprint)
			return nil
		},
	}
}

func removeListedKey(c *cobra.Command, id attest.AgentID) error {
	server, err := connect(c)
	if err != nil {
		return err
	}
	if err := server.UnlistKey(c.Context(), id); err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "removed %s\n", id)
	return nil
}
