package platform

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// identity is what the certificates of a platform came to, whatever their source.
type identity struct {
	serverCAs, clientCAs []byte
	server, verifier     string // Secrets' names; empty for a server elsewhere
	operator             credentials
	mark                 string
	pin                  string
	wait                 time.Duration // until a rotation goes on; 0 for none
}

// certificates sees to the certificates that a specification asks for.
func (r *Reconciler) certificates(ctx context.Context, p *v1alpha1.AttestationPlatform) (identity, error) {
	if e := p.Spec.Server.External; e != nil {
		return r.external(ctx, e, Address(p.Spec, r.Namespace))
	}
	names := v1alpha1.CertificateSecrets{Server: SecretServer, Verifier: SecretVerifier, Operator: SecretOperator}
	switch p.Spec.Certificates.Source {
	case v1alpha1.SourceCertManager:
		if err := r.certManager(ctx, p); err != nil {
			return identity{}, err
		}
	case v1alpha1.SourceSecrets:
		names = *p.Spec.Certificates.Secrets
	default:
		return r.builtIn(ctx, p)
	}
	return r.supplied(ctx, names, Address(p.Spec, r.Namespace))
}

// builtIn keeps the authorities and issues from them.
func (r *Reconciler) builtIn(ctx context.Context, p *v1alpha1.AttestationPlatform) (identity, error) {
	settled, err := r.settled(ctx)
	if err != nil {
		return identity{}, err
	}
	w := want{now: r.Now(), overlap: p.Spec.Certificates.Overlap.Duration, asked: p.Spec.Certificates.Rotation, settled: settled}
	a, err := r.authorities(ctx, w)
	if err != nil {
		return identity{}, err
	}
	id := identity{server: SecretServer, verifier: SecretVerifier, mark: a.mark(w), pin: a.current.Pin().String(), wait: a.wait(w)}
	id.serverCAs, id.clientCAs = a.bundles()
	for _, l := range leaves(r.Namespace, p.Spec.Server.Hosts) {
		have, err := r.secret(ctx, l.secret)
		if err != nil && !apierrors.IsNotFound(err) {
			return identity{}, err
		}
		data, err := l.data(a, have, w.now)
		if err != nil {
			return identity{}, &problem{v1alpha1.ConditionCertificates, "HostsInvalid", err.Error() + "; correct server.hosts"}
		}
		if err := r.writeSecret(ctx, p, l.secret, corev1.SecretTypeTLS, data); err != nil {
			return identity{}, err
		}
		if l.role == mtls.Operator {
			id.operator = credentials{address: Address(p.Spec, r.Namespace), ca: id.serverCAs, cert: data[keyCert], key: data[keyKey]}
		}
	}
	return id, nil
}

// authorities reads the Secret of the authorities, makes it where there is none, and moves a rotation on. A Secret that cannot be read is never
// replaced: with the authorities every agent's trust would be lost.
func (r *Reconciler) authorities(ctx context.Context, w want) (authorities, error) {
	data, err := r.secret(ctx, SecretAuthorities)
	var a authorities
	switch {
	case apierrors.IsNotFound(err):
		set, err := mtls.New(r.Now)
		if err != nil {
			return a, err
		}
		a = authorities{current: set, phase: stable, since: w.now, serial: 1, asked: w.asked}
	case err != nil:
		return a, err
	default:
		if a, err = parseAuthorities(data, r.Now); err != nil {
			return a, &problem{v1alpha1.ConditionCertificates, "AuthoritiesUnreadable", err.Error() + "; restore the Secret from a backup, or delete it to begin anew with all certificates"}
		}
		next, changed, err := a.step(w)
		if err != nil || !changed {
			return a, err
		}
		r.Log.Info("rotation of the authorities", "from", a.phase, "to", next.phase)
		a = next
	}
	data, err = a.data()
	if err != nil {
		return a, err
	}
	return a, r.writeSecret(ctx, nil, SecretAuthorities, corev1.SecretTypeOpaque, data)
}

// supplied reads certificates that somebody else put into Secrets.
func (r *Reconciler) supplied(ctx context.Context, names v1alpha1.CertificateSecrets, address string) (identity, error) {
	read := map[string]map[string][]byte{}
	for _, name := range []string{names.Server, names.Verifier, names.Operator} {
		data, err := r.pair(ctx, name)
		if err != nil {
			return identity{}, err
		}
		read[name] = data
	}
	id := identity{server: names.Server, verifier: names.Verifier, serverCAs: read[names.Server][keyCA], clientCAs: read[names.Verifier][keyCA]}
	id.mark = "supplied-" + digestOf(string(id.serverCAs)) // agents read the bundle at their start
	id.operator = credentials{address: address, ca: id.serverCAs, cert: read[names.Operator][keyCert], key: read[names.Operator][keyKey]}
	certs, err := mtls.ParseBundle(id.serverCAs)
	if err == nil {
		id.pin = mtls.KeyDigest(certs[0]).String()
	}
	return id, nil
}

// pair reads a Secret with tls.crt, tls.key and ca.crt, and says what is wrong with it.
func (r *Reconciler) pair(ctx context.Context, name string) (map[string][]byte, error) {
	data, err := r.need(ctx, name, keyCert, keyKey, keyCA)
	if err != nil {
		return nil, err
	}
	wrong := func(key string, err error) error {
		return &problem{v1alpha1.ConditionCertificates, "SecretInvalid", fmt.Sprintf("Secret %s/%s: %s: %v", r.Namespace, name, key, err)}
	}
	pair, err := tls.X509KeyPair(data[keyCert], data[keyKey])
	if err != nil {
		return nil, wrong(keyCert+" and "+keyKey, err)
	}
	if _, err := mtls.ParseBundle(data[keyCA]); err != nil {
		return nil, wrong(keyCA, err)
	}
	if end := pair.Leaf.NotAfter; r.Now().After(end) {
		return nil, wrong(keyCert, fmt.Errorf("it ended at %s; renew it", end.Format(time.RFC3339)))
	}
	return data, nil
}

// need reads a Secret that a person has to supply.
func (r *Reconciler) need(ctx context.Context, name string, keys ...string) (map[string][]byte, error) {
	data, err := r.secret(ctx, name)
	if apierrors.IsNotFound(err) {
		return nil, &problem{v1alpha1.ConditionCertificates, "SecretMissing", fmt.Sprintf("there is no Secret %s in namespace %s; create it with the keys %v", name, r.Namespace, keys)}
	} else if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if len(data[key]) == 0 {
			return nil, &problem{v1alpha1.ConditionCertificates, "SecretIncomplete", fmt.Sprintf("Secret %s/%s has no key %s", r.Namespace, name, key)}
		}
	}
	return data, nil
}

// external reads what is needed to work with a server elsewhere.
func (r *Reconciler) external(ctx context.Context, e *v1alpha1.ExternalServer, address string) (identity, error) {
	token, err := r.need(ctx, e.JoinTokenSecret, keyToken)
	if err != nil {
		return identity{}, err
	}
	joined, err := api.ParseJoinToken(string(token[keyToken]))
	if err != nil {
		return identity{}, &problem{v1alpha1.ConditionCertificates, "JoinTokenInvalid", fmt.Sprintf("Secret %s/%s: %v; make one at the server: assay token create", r.Namespace, e.JoinTokenSecret, err)}
	}
	data, err := r.pair(ctx, e.OperatorSecret)
	if err != nil {
		return identity{}, err
	}
	return identity{mark: "external", pin: joined.Pin.String(), serverCAs: data[keyCA], operator: credentials{address: address, ca: data[keyCA], cert: data[keyCert], key: data[keyKey]}}, nil
}

// certManager asks cert-manager for the certificates.
func (r *Reconciler) certManager(ctx context.Context, p *v1alpha1.AttestationPlatform) error {
	for _, l := range leaves(r.Namespace, p.Spec.Server.Hosts) {
		issuer := p.Spec.Certificates.CertManager.Clients
		if l.role == mtls.Server {
			issuer = p.Spec.Certificates.CertManager.Servers
		}
		err := r.apply(ctx, p, certificate(r.Namespace, l, issuer))
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			return &problem{v1alpha1.ConditionCertificates, "CertManagerMissing", "the cluster does not know cert-manager.io/v1 Certificate; install cert-manager or choose another certificates.source"}
		} else if err != nil {
			return err
		}
	}
	return nil
}

func certificate(namespace string, l leaf, issuer v1alpha1.IssuerReference) *unstructured.Unstructured {
	usage := "client auth"
	if l.role == mtls.Server {
		usage = "server auth"
	}
	var dns, ips []any
	for _, host := range l.hosts {
		if isIP(host) {
			ips = append(ips, host)
		} else {
			dns = append(dns, host)
		}
	}
	spec := map[string]any{
		"secretName": l.secret, "commonName": l.secret, "uris": []any{"assay:role:" + string(l.role)}, "usages": []any{"digital signature", usage},
		"issuerRef":  map[string]any{"name": issuer.Name, "kind": issuer.Kind, "group": "cert-manager.io"},
		"privateKey": map[string]any{"algorithm": "ECDSA", "size": int64(256), "rotationPolicy": "Always"},
	}
	if len(dns) > 0 {
		spec["dnsNames"] = dns
	}
	if len(ips) > 0 {
		spec["ipAddresses"] = ips
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": map[string]any{"name": l.secret, "namespace": namespace, "labels": anyMap(labels(""))}, "spec": spec,
	}}
}

func anyMap(m map[string]string) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

func (r *Reconciler) secret(ctx context.Context, name string) (map[string][]byte, error) {
	var s corev1.Secret
	if err := r.Reader.Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: name}, &s); err != nil {
		return nil, err
	}
	return s.Data, nil
}

// writeSecret writes a Secret of ours. Without an owner it stays when the platform goes.
func (r *Reconciler) writeSecret(ctx context.Context, owner *v1alpha1.AttestationPlatform, name string, kind corev1.SecretType, data map[string][]byte) error {
	return r.apply(ctx, owner, &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: r.Namespace, Labels: labels("")}, Type: kind, Data: data,
	})
}
