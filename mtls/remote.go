package mtls

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// attemptTimeout bounds what one replica may take, so that another can be asked.
const attemptTimeout = 3 * time.Second

// RemoteConfig of a Remote.
type RemoteConfig struct {
	TrustDomain string
	// Server is the SPIFFE ID that the CA must show.
	Server model.Identity
	// TokenFile holds this agent's ServiceAccount token for Audience. It is read for every request: it is renewed.
	TokenFile string
	// Replicas gives the addresses of the CA's replicas, the best first.
	Replicas func() []netip.AddrPort
	// Kept holds the bundle over a restart; nil for nowhere.
	Kept *SVIDStore
	Log  *slog.Logger
}

// Remote is the cluster's CA as a node sees it. Keys are made here and stay here.
type Remote struct {
	cfg     RemoteConfig
	changed chan struct{}

	mu     sync.Mutex
	bundle *model.Bundle
	client *http.Client
	config *tls.Config                  // of client
	failed map[netip.AddrPort]time.Time // when a replica last failed
}

// NewRemote begins with the bundle that was kept, if one was.
func NewRemote(cfg RemoteConfig) *Remote {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Remote{cfg: cfg, changed: make(chan struct{}, 1), failed: map[netip.AddrPort]time.Time{}}
	if text := cfg.Kept.bundle(); text != nil {
		if err := r.SetBundle(text); err != nil {
			cfg.Log.Warn("the trust bundle that was kept is of no use; the cluster's is waited for", "error", err)
		}
	}
	return r
}

// SetBundle takes the cluster's trust bundle. One that is not understood is refused, and the last one stays.
func (r *Remote) SetBundle(text []byte) error {
	certs, err := ParseBundle(r.cfg.TrustDomain, text)
	if err != nil {
		return err
	}
	r.mu.Lock()
	if r.bundle != nil && bytes.Equal(r.bundle.PEM, text) {
		r.mu.Unlock()
		return nil
	}
	old := r.client
	r.bundle = &model.Bundle{TrustDomain: r.cfg.TrustDomain, PEM: bytes.Clone(text)}
	r.client = r.newClient(certs)
	r.mu.Unlock()
	if old != nil {
		old.CloseIdleConnections()
	}
	if err := r.cfg.Kept.saveBundle(text); err != nil {
		r.cfg.Log.Warn("the trust bundle cannot be kept on the disk", "error", err)
	}
	r.Nudge()
	return nil
}

// Nudge tells that what failed may work now.
func (r *Remote) Nudge() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Changed tells that the bundle is another or that there was a nudge.
func (r *Remote) Changed() <-chan struct{} { return r.changed }

// Close ends connections.
func (r *Remote) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		r.client.CloseIdleConnections()
	}
}

// Bundle is the last one taken; nil before the first.
func (r *Remote) Bundle() *model.Bundle {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bundle
}

// newClient talks to nobody who does not prove to be the CA. Its name alone would do, for no workload gets a certificate
// with a DNS name; the SPIFFE ID is looked at so that this need not be trusted.
func (r *Remote) newClient(roots []*x509.Certificate) *http.Client {
	pool := x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	config := &tls.Config{
		RootCAs: pool, ServerName: ServerName, MinVersion: tls.VersionTLS13,
		VerifyConnection: func(s tls.ConnectionState) error {
			if leaf := s.PeerCertificates[0]; len(leaf.URIs) != 1 || leaf.URIs[0].String() != string(r.cfg.Server) {
				return fmt.Errorf("who answers is %v, not %s", leaf.URIs, r.cfg.Server)
			}
			return nil
		},
	}
	r.config = config.Clone()
	return &http.Client{
		Transport: &http.Transport{
			ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute, MaxConnsPerHost: 2, TLSHandshakeTimeout: attemptTimeout,
			TLSClientConfig: config,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Sign asks one replica after the other.
func (r *Remote) Sign(ctx context.Context, ids []model.Identity) []Issued {
	out := make([]Issued, len(ids))
	keys, request, err := requests(ids, out)
	if err == nil && len(request.CSRs) == 0 {
		return out
	}
	var response *SignResponse
	if err == nil {
		response, err = r.ask(ctx, request)
	}
	answered := 0 // CSRs
	for i, id := range ids {
		switch {
		case out[i].Err != nil: // it was not asked for
			continue
		case err != nil:
			out[i].Err = err
			continue
		}
		result := response.Results[answered]
		answered++
		if result.Error != "" {
			out[i].Err = errors.New("the CA refuses: " + result.Error)
			continue
		}
		out[i].SVID, out[i].Err = r.take(id, result.Chain, keys[i])
	}
	return out
}

// take refuses what a peer would refuse.
func (r *Remote) take(id model.Identity, chain [][]byte, key *ecdsa.PrivateKey) (*model.SVID, error) {
	svid, err := newSVID(id, chain, key)
	if err == nil {
		err = verifySVID(svid, r.Bundle(), time.Now())
	}
	if err != nil {
		return nil, fmt.Errorf("what the CA signed is of no use: %w", err)
	}
	return svid, nil
}

// requests makes a key and a CSR for each identity; one for which that fails gets its error in out and no CSR.
func requests(ids []model.Identity, out []Issued) ([]*ecdsa.PrivateKey, *SignRequest, error) {
	keys, request := make([]*ecdsa.PrivateKey, len(ids)), &SignRequest{}
	for i, id := range ids {
		uri, err := url.Parse(string(id))
		if err != nil {
			out[i].Err = fmt.Errorf("identity %.200q: %w", id, err)
			continue
		}
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, nil, err
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, keys[i])
		if err != nil {
			out[i].Err = fmt.Errorf("identity %.200q: %w", id, err)
			continue
		}
		request.CSRs = append(request.CSRs, csr)
	}
	return keys, request, nil
}

// ask returns the answer of the first replica that has one.
func (r *Remote) ask(ctx context.Context, request *SignRequest) (*SignResponse, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	var response *SignResponse
	err = r.first(ctx, func(client *http.Client, replica netip.AddrPort, token string) (err error) {
		response, err = post(ctx, client, replica, token, body, len(request.CSRs))
		return err
	})
	return response, err
}

// Stream returns the body of the answer to a GET at the first replica that answers 200. It lasts until ctx ends or it is
// closed, however long that takes.
func (r *Remote) Stream(ctx context.Context, path string) (io.ReadCloser, error) {
	var body io.ReadCloser
	err := r.first(ctx, func(client *http.Client, replica netip.AddrPort, token string) (err error) {
		body, err = open(ctx, client, "https://"+replica.String()+path, token)
		return err
	})
	return body, err
}

var errNoBundle = errors.New("the trust bundle is not known yet: see whether the Deployment weft-controller runs, which writes the ConfigMap weft-trust-bundle")

// first calls try for one replica after the other until it succeeds.
func (r *Remote) first(ctx context.Context, try func(client *http.Client, replica netip.AddrPort, token string) error) error {
	r.mu.Lock()
	client := r.client
	r.mu.Unlock()
	if client == nil {
		return errNoBundle
	}
	token, err := os.ReadFile(r.cfg.TokenFile)
	if err != nil {
		return fmt.Errorf("the agent's token for the CA: %w", err)
	}
	replicas := r.replicas()
	if len(replicas) == 0 {
		return errors.New("no replica of the CA is known: see whether the pods of the Deployment weft-controller run")
	}
	var errs []error
	for _, replica := range replicas {
		err := try(client, replica, strings.TrimSpace(string(token)))
		r.note(replica, err)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("the CA at %s: %w", replica, err))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// replicas gives first those that did not fail, then those whose failure is the longest ago.
func (r *Remote) replicas() []netip.AddrPort {
	all := slices.Clone(r.cfg.Replicas())
	r.mu.Lock()
	defer r.mu.Unlock()
	for known := range r.failed {
		if !slices.Contains(all, known) {
			delete(r.failed, known)
		}
	}
	slices.SortStableFunc(all, func(a, b netip.AddrPort) int { return r.failed[a].Compare(r.failed[b]) })
	return all
}

func (r *Remote) note(replica netip.AddrPort, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failed[replica] = time.Now()
		return
	}
	delete(r.failed, replica)
}

// stream is a body that ends its request when it is closed.
type stream struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (s *stream) Close() error {
	s.cancel()
	return s.ReadCloser.Close()
}

// open bounds the time until the answer begins.
func open(ctx context.Context, client *http.Client, url, token string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(attemptTimeout, cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := client.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	inTime := late.Stop()
	if res.StatusCode == http.StatusOK && inTime {
		return &stream{res.Body, cancel}, nil
	}
	defer cancel()
	defer res.Body.Close()
	if !inTime {
		return nil, fmt.Errorf("no answer within %s", attemptTimeout)
	}
	text, _ := io.ReadAll(io.LimitReader(res.Body, 300)) // the status says enough
	if res.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("%s: it is older than this agent; upgrade the Deployment weft-controller", res.Status)
	}
	return nil, fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(text)))
}

func post(ctx context.Context, client *http.Client, replica netip.AddrPort, token string, body []byte, want int) (*SignResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+replica.String()+SignPath, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, MaxResponse+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > MaxResponse:
		return nil, fmt.Errorf("an answer longer than %d bytes", MaxResponse)
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: %.300s", res.Status, strings.TrimSpace(string(data)))
	}
	var response SignResponse
	if err := json.Unmarshal(data, &response); err != nil {
		return nil, fmt.Errorf("an answer that is not understood: %w", err)
	}
	if len(response.Results) != want {
		return nil, fmt.Errorf("%d results for %d CSRs", len(response.Results), want)
	}
	return &response, nil
}
