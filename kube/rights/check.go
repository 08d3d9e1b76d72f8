package rights

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	authorizationv1 "k8s.io/api/authorization/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// nowhere cannot be the name of a namespace, so that no RoleBinding lies there: what is granted in it is granted in the whole cluster.
const nowhere = "whole.cluster"

// Missing returns those of the wanted rights that the API server denies to the caller's own account. It asks for all rules at once, and for single
// rights only where these do not grant them: an authorizer that is not RBAC may name no rules.
func Missing(ctx context.Context, c client.Client, wanted []Right) ([]Right, error) {
	rules := map[string][]authorizationv1.ResourceRule{} // by namespace
	var missing []Right
	for _, r := range wanted {
		where := cmp.Or(r.Namespace, nowhere)
		if _, asked := rules[where]; !asked {
			review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: where}}
			if err := c.Create(ctx, review); err != nil {
				return nil, fmt.Errorf("ask for the rights of this account: %w", err)
			}
			rules[where] = review.Status.ResourceRules
		}
		if granted(rules[where], r) {
			continue
		}
		allowed, err := ask(ctx, c, r)
		if err != nil {
			return nil, err
		}
		if !allowed {
			missing = append(missing, r)
		}
	}
	return missing, nil
}

// granted reports whether rules grant a right.
func granted(rules []authorizationv1.ResourceRule, r Right) bool {
	resource := r.Resource
	if r.Subresource != "" {
		resource += "/" + r.Subresource
	}
	holds := func(list []string, word string) bool {
		return slices.Contains(list, word) || slices.Contains(list, "*")
	}
	return slices.ContainsFunc(rules, func(rule authorizationv1.ResourceRule) bool {
		return holds(rule.Verbs, r.Verb) && holds(rule.APIGroups, r.Group) && holds(rule.Resources, resource) &&
			(len(rule.ResourceNames) == 0 || r.Name != "" && slices.Contains(rule.ResourceNames, r.Name))
	})
}

// ask asks for a single right.
func ask(ctx context.Context, c client.Client, r Right) (bool, error) {
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
		Verb: r.Verb, Group: r.Group, Resource: r.Resource, Subresource: r.Subresource, Name: r.Name, Namespace: r.Namespace,
	}}}
	if err := c.Create(ctx, review); err != nil {
		return false, fmt.Errorf("ask whether this account may %s: %w", r, err)
	}
	return review.Status.Allowed, nil
}
