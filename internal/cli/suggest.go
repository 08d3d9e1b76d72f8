package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// maxDistance is how many letters a suggestion may be away from what was typed.
const maxDistance = 3

// suggestFlag adds the nearest flag of cmd to the error of an unknown one.
func suggestFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	near, ok := Nearest(unknown.GetSpecifiedName(), names)
	if !ok {
		return fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())
	}
	return fmt.Errorf("%w (did you mean --%s?)", err, near)
}

// Nearest returns the candidate that is the fewest letters away from word; the first one wins a tie. ok is false when none is near.
func Nearest(word string, candidates []string) (near string, ok bool) {
	best := maxDistance + 1
	for _, candidate := range candidates {
		d := distance(word, candidate)
		// Half of a short word is not a typing mistake any more.
		if d < best && d*2 <= max(len(word), len(candidate)) {
			best, near, ok = d, candidate, true
		}
	}
	return near, ok
}

// distance counts the single-byte insertions, deletions and replacements that lead from a to b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
