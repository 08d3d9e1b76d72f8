package policy

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
)

// BuildPcr makes a Pcr document from accepted quotes of machines that are known to be good: each chosen PCR may have the value that any of
// them showed. Whoever uses it vouches for the machines. All quotes have to be of the chosen bank and hold every chosen PCR.
func BuildPcr(name string, chosen pcr.Selection, machines ...quote.Verified) (*Document, error) {
	values, err := goldenValues(chosen, machines)
	if err != nil {
		return nil, fmt.Errorf("make Pcr document: %w", err)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "apiVersion: %s\nkind: %s\nmetadata:\n  name: %s\nspec:\n  pcrs:\n    %s:\n", APIVersion, KindPcr, strconv.Quote(name), chosen.Bank)
	for _, p := range chosen.PCRs() {
		index := strconv.Itoa(p)
		writeList(&out, "      ", strconv.Quote(index), sortedDigests(values[index]))
	}
	doc, err := Parse(out.Bytes())
	if err != nil {
		return nil, fmt.Errorf("make Pcr document: %w", err)
	}
	return doc, nil
}

// goldenValues unites the values of the machines, by the PCR's index in decimal.
func goldenValues(chosen pcr.Selection, machines []quote.Verified) (digestSets, error) {
	if len(machines) == 0 {
		return nil, errors.New("no quote to take values from")
	}
	if len(chosen.PCRs()) == 0 {
		return nil, errors.New("no PCR is chosen")
	}
	d := newDraft("")
	values := digestSets{}
	for i, machine := range machines {
		if !machine.Valid() {
			return nil, fmt.Errorf("quote %d is not verified", i+1)
		}
		if bank := machine.Values().Bank; bank != chosen.Bank {
			return nil, fmt.Errorf("quote %d is of bank %s, not %s", i+1, bank, chosen.Bank)
		}
		for _, p := range chosen.PCRs() {
			value, ok := machine.Value(p)
			if !ok {
				return nil, fmt.Errorf("quote %d lacks PCR %d", i+1, p)
			}
			d.add(values, strconv.Itoa(p), value)
		}
	}
	return values, nil
}
