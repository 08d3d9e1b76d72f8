package commands

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/internal/cli"
)

// terms are what a person without a cluster can assign beside the documents.
type terms struct {
	readmit, containerFiles, reimage string
	endorsedBy                       []string
}

func (t *terms) flags(c *cobra.Command) {
	c.Flags().StringVar(&t.readmit, "readmit", "", "how a failed machine comes back by a reboot: Automatic or Approval")
	c.Flags().StringVar(&t.reimage, "reimage", "", "what becomes of a new attestation key of the same TPM: Approval or Allow; an empty one for what the server says")
	c.Flags().StringVar(&t.containerFiles, "container-files", "", "programs in containers: Fail, or Ignore, which takes the IMA policy for hosts with containers")
	c.Flags().StringSliceVar(&t.endorsedBy, "endorsed-by", nil, "fingerprints of the roots that may endorse the TPM (repeatable); an empty one for any that is no emulator's")
}

// change returns the node's assignment with what the flags say, nil where they say nothing.
func (t *terms) change(c *cobra.Command, server *client.Client, id attest.AgentID) (*api.Assignment, error) {
	if !c.Flags().Changed("readmit") && !c.Flags().Changed("reimage") && !c.Flags().Changed("container-files") && !c.Flags().Changed("endorsed-by") {
		return nil, nil
	}
	n, err := server.Node(c.Context(), id)
	if err != nil {
		return nil, err
	}
	a := n.Assignment
	if c.Flags().Changed("readmit") {
		a.Readmit = api.Readmit(t.readmit)
	}
	if c.Flags().Changed("reimage") {
		a.Reimage = api.Reimage(t.reimage)
	}
	if c.Flags().Changed("container-files") {
		a.ContainerFiles = api.ContainerFiles(t.containerFiles)
	}
	if c.Flags().Changed("endorsed-by") {
		a.EndorsedBy = nil
		for _, text := range t.endorsedBy {
			fingerprint, err := attest.ParseDigest(text)
			if err != nil {
				return nil, cli.Usage(fmt.Errorf("--endorsed-by: %w", err))
			}
			a.EndorsedBy = append(a.EndorsedBy, fingerprint)
		}
	}
	if n.Assignment.Owner == "" { // otherwise the server names who has to change it
		if err := a.Validate(); err != nil {
			return nil, cli.Usage(err)
		}
	}
	return &a, nil
}

// describeAssignment prints what an assignment makes of a node; nothing for the zero one.
func describeAssignment(line func(name, format string, values ...any), n api.Node) {
	a := n.Assignment
	mode := a.Mode
	if mode == "" {
		mode = api.Observe
	}
	if a.Owner != "" {
		line("Owner", "%s, %s%s", a.Owner, mode, reactionsOf(a))
	}
	if a.Readmit == api.ReadmitApproval {
		line("Readmit", "after a failure, a reboot needs a person's approval")
	}
	if a.Reimage != "" {
		line("Reimage", "%s", a.Reimage)
	}
	for _, fingerprint := range a.EndorsedBy {
		line("Endorsed by", "only %s", fingerprint)
	}
	if n.Muted != nil {
		text := fmt.Sprintf("the node is cordoned: that evidence is missing shows from %s on", when(n.Muted.Until))
		if n.Muted.Stale {
			text += "; it is missing now"
		}
		line("Muted", "%s", text)
	}
	if len(n.Coverage) > 0 {
		line("Coverage", "reduced: %s", strings.Join(n.Coverage, ", "))
	}
	if n.Readmission != nil {
		line("Readmission", "boot %s passes since %s and waits for a person: `assay node approve %s`", n.Readmission.Boot, when(n.Readmission.At), n.ID)
	}
}

func reactionsOf(a api.Assignment) string {
	if len(a.Reactions) == 0 {
		return ""
	}
	text := fmt.Sprintf(": %s, %d nodes at once", kindNames(a.Reactions), a.Budget)
	if a.DryRun {
		text += " (dry run)"
	}
	return text
}

// readmits reports whether a node's readmission waits for approval. A registration may wait for an agent that is not enrolled.
func readmits(c *cobra.Command, server *client.Client, id attest.AgentID) (bool, error) {
	n, err := server.Node(c.Context(), id)
	if client.NotFound(err) {
		return false, nil
	}
	return err == nil && n.Readmission != nil, err
}
