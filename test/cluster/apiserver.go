package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"
)

// serviceCIDR holds the addresses of Services; the first is the API server's, the tenth that of cluster DNS.
const (
	serviceCIDR = "10.96.0.0/16"
	serviceAPI  = "10.96.0.1"
	serviceDNS  = "10.96.0.10"
)

// API is etcd and an API server.
type API struct {
	URL        string // https://address:port
	Kubeconfig string // path of the administrator's kubeconfig

	dir           string
	ca            *authority
	address       string
	port          int
	etcdPort      [2]int // for clients and for peers
	bin           Binaries
	launch        launch
	etcd, serving *process
	flags         []string
}

// APIServer builds, if the cache lacks them, and starts etcd and a kube-apiserver on free ports of loopback. Their data,
// certificates, kubeconfig and logs go into dir, which the caller owns. They end with Close, or with this process.
// ServiceAccounts, Nodes and RBAC work as in a cluster, but no controllers run: namespaces get no default
// ServiceAccount, and what is deleted is not collected.
func APIServer(ctx context.Context, dir string) (*API, error) {
	bin, err := Build(ctx, slog.Default(), "etcd", "kube-apiserver")
	if err != nil {
		return nil, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	a := &API{
		dir: dir, bin: bin, address: "127.0.0.1", port: ports[0], etcdPort: [2]int{ports[1], ports[2]},
		launch: launch{dir: dir},
	}
	if err := a.prepare(); err != nil {
		return nil, err
	}
	if err := a.Start(ctx); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// open takes over an API server that another process prepared and started.
func (a *API) open(ca *authority) {
	a.locate()
	a.ca = ca
	a.etcd, a.serving = running(a.dir, "etcd"), running(a.dir, "kube-apiserver")
}

func (a *API) locate() {
	a.URL = "https://" + net.JoinHostPort(a.address, strconv.Itoa(a.port))
	a.Kubeconfig = filepath.Join(a.dir, "kubeconfig")
}

// prepare makes the certificates and the administrator's kubeconfig.
func (a *API) prepare() (err error) {
	a.locate()
	if a.ca, err = newAuthority(filepath.Join(a.dir, "pki")); err != nil {
		return err
	}
	return errors.Join(
		a.ca.serviceAccountKeys(),
		a.ca.issue("apiserver", subject{name: "kube-apiserver", hosts: []string{
			a.address, "127.0.0.1", "localhost", serviceAPI, "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		}}),
		a.ca.issue("kubelet-client", subject{name: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}}),
		a.ca.issue("probe", subject{name: "probe", groups: []string{"system:masters"}}),
		a.ca.kubeconfig(a.Kubeconfig, a.URL, subject{name: "admin", groups: []string{"system:masters"}}),
	)
}

// KubeconfigFor writes a kubeconfig for a user with groups, without rights until RBAC gives some, and gives its path.
func (a *API) KubeconfigFor(user string, groups ...string) (string, error) {
	path := filepath.Join(a.dir, "kubeconfig-"+filepath.Base(user))
	return path, a.ca.kubeconfig(path, a.URL, subject{name: user, groups: groups})
}

// Start starts what does not run, on the same ports and data, and waits until the API server is ready.
func (a *API) Start(ctx context.Context) (err error) {
	if a.etcd == nil {
		client := fmt.Sprintf("http://127.0.0.1:%d", a.etcdPort[0])
		peer := fmt.Sprintf("http://127.0.0.1:%d", a.etcdPort[1])
		a.etcd, err = start(a.launch, "etcd", a.bin["etcd"], "--data-dir", filepath.Join(a.dir, "etcd"),
			"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
			"--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer,
			"--unsafe-no-fsync") // the data need not outlive the machine
		if err != nil {
			return err
		}
	}
	if a.serving == nil {
		if a.serving, err = start(a.launch, "kube-apiserver", a.bin["kube-apiserver"], append(a.arguments(), a.flags...)...); err != nil {
			return err
		}
	}
	return a.waitReady(ctx)
}

func (a *API) arguments() []string {
	return []string{
		"--etcd-servers", fmt.Sprintf("http://127.0.0.1:%d", a.etcdPort[0]),
		"--bind-address", a.address, "--advertise-address", a.address, "--secure-port", strconv.Itoa(a.port),
		"--tls-cert-file", a.ca.file("apiserver.crt"), "--tls-private-key-file", a.ca.file("apiserver.key"),
		"--client-ca-file", a.ca.file("ca.crt"),
		"--service-account-key-file", a.ca.file("sa.pub"), "--service-account-signing-key-file", a.ca.file("sa.key"),
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-cluster-ip-range", serviceCIDR, "--authorization-mode", "Node,RBAC", "--allow-privileged",
		"--kubelet-client-certificate", a.ca.file("kubelet-client.crt"), "--kubelet-client-key", a.ca.file("kubelet-client.key"),
		"--kubelet-certificate-authority", a.ca.file("ca.crt"), "--kubelet-preferred-address-types", "InternalIP",
		"--endpoint-reconciler-type", a.reconciler(),
	}
}

// reconciler names who keeps the endpoints of the Service kubernetes: nobody on loopback, an address that no endpoint
// may have.
func (a *API) reconciler() string {
	if a.address == "127.0.0.1" {
		return "none"
	}
	return "lease"
}

// StopServing ends the API server alone, as an outage does; Start brings it back with its data.
func (a *API) StopServing() {
	if a.serving != nil {
		a.serving.stop(10 * time.Second)
		a.serving = nil
	}
}

// Close ends both. The folder stays.
func (a *API) Close() error {
	if a.serving != nil {
		a.serving.stop(time.Second) // it would wait a minute for its watchers
		a.serving = nil
	}
	if a.etcd != nil {
		a.etcd.stop(5 * time.Second)
		a.etcd = nil
	}
	return nil
}

// waitReady waits until /readyz says ok, for two minutes at most.
func (a *API) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	var last error
	for {
		if last = ready(ctx, client, a.URL); last == nil {
			return nil
		}
		if err := errors.Join(a.etcd.ended(), a.serving.ended()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("API server at %s is not ready: %w: see %s", a.URL, last, a.serving.log)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func ready(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(io.LimitReader(res.Body, 4096)); err != nil || res.StatusCode != http.StatusOK {
		return errors.Join(fmt.Errorf("/readyz: %s: %s", res.Status, tail(b, 3)), err)
	}
	return nil
}

// client speaks to the API server as its prober.
func (a *API) client() (*http.Client, error) {
	cert, err := tls.LoadX509KeyPair(a.ca.file("probe.crt"), a.ca.file("probe.key"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.ca.cert)
	return &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS12}},
	}, nil
}

// freePorts gives ports of loopback that nobody had a moment ago.
func freePorts(n int) ([]int, error) {
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("free port: %w", err)
		}
		defer l.Close() // all are held until all are found
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out, nil
}
