package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/capture"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
)

// mtls shows a strict namespace: who was seen, what was on the wire, who is refused.
func (d *demo) mtls(ctx context.Context) {
	d.section("2  weft.io/mtls: strict (examples/mtls)")
	since := time.Now()
	d.onTheWire(ctx)
	d.identities(ctx, since)
	d.refused(ctx)
}

// onTheWire sends a secret from the teller to the vault, and the same between pods without mTLS, and looks for it.
func (d *demo) onTheWire(ctx context.Context) {
	const name = "a secret in a request, on the wire"
	teller, vault := d.node.Pod("bank", "teller"), d.node.Pod("bank", "vault")
	secret := "secret-" + rand.Text()
	wire, err := sendCaptured(ctx, teller, vault, d.serviceURL("bank", "vault")+"/"+secret, "vault", secret)
	if err != nil {
		d.fail(name, err)
		return
	}
	client, web := d.node.Pod("canary", "client"), d.node.Pod("canary", "web-v1")
	plain, err := sendCaptured(ctx, client, web, "http://"+netip.AddrPortFrom(web.Address, 8080).String()+"/"+secret, "web", secret)
	if err != nil {
		d.fail(name, err)
		return
	}
	ports := wire.Between(teller.Address, vault.Address)
	encrypted := ports[model.PortTunnel]
	delete(ports, model.PortTunnel)
	ok := !wire.Contains(secret) && len(ports) == 0 && encrypted > 0 && wire.TLSOnly(teller.Address, vault.Address) && plain.Contains(secret)
	d.line(ok, name, "found: %t; %s bytes of TLS on port %d, %d on others (without mTLS, found: %t)",
		wire.Contains(secret), number(encrypted), model.PortTunnel, sum(ports), plain.Contains(secret))
}

func sum(m map[uint16]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

// sendCaptured makes a request that carries a text and checks that the server got it, while the wire between the two
// pods is captured.
func sendCaptured(ctx context.Context, from, to *lab.Pod, url, host, text string) (*capture.Traffic, error) {
	c, err := capture.Start(to.HostLink)
	if err != nil {
		return nil, err
	}
	body, rerr := get(ctx, from, url, host)
	pause(ctx, 100*time.Millisecond) // what follows the answer
	t, err := c.Stop()
	if err = errors.Join(rerr, err); err != nil {
		return nil, err
	}
	if !strings.Contains(body, text) {
		return nil, fmt.Errorf("the server did not get the secret: it answers %q", body)
	}
	return t, nil
}

// get gives the body of a 200.
func get(ctx context.Context, from *lab.Pod, url, host string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Host = host
	tr := &http.Transport{DialContext: from.Dial, DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s: %s", resp.Status, body)
	}
	return string(body), err
}

// identities shows what both ends' Envoys saw, from the agent's flows.
func (d *demo) identities(ctx context.Context, since time.Time) {
	const name = "identities, as each side saw them"
	const teller, vault = "spiffe://cluster.local/ns/bank/sa/teller", "spiffe://cluster.local/ns/bank/sa/vault"
	seen := map[observe.Side]observe.Flow{}
	for range 50 { // access logs are sent in batches
		err := d.node.API.Flows(ctx, api.FlowQuery{Terms: observe.Terms{Namespace: []string{"bank"}}}, func(e observe.Event) error {
			if f := e.Flow; f != nil && f.Time.After(since) && string(f.Source.Identity) == teller && string(f.Destination.Identity) == vault {
				seen[f.SeenAt] = *f
			}
			return nil
		})
		if err != nil {
			d.fail(name, err)
			return
		}
		if len(seen) == 2 {
			break
		}
		pause(ctx, 100*time.Millisecond)
	}
	text := ""
	for _, side := range []observe.Side{observe.AtSource, observe.AtDestination} {
		if f, ok := seen[side]; ok {
			text += fmt.Sprintf("\nthe %s's: %s -> %s", side, f.Source.Identity, f.Destination.Identity)
		} else {
			text += fmt.Sprintf("\nthe %s's: nothing", side)
		}
	}
	d.line(len(seen) == 2, name, "%d of 2%s", len(seen), text)
}

// refused tries to reach the vault as those who may not.
func (d *demo) refused(ctx context.Context) {
	vault := netip.AddrPortFrom(d.node.Pod("bank", "vault").Address, 8080).String()
	for _, try := range []struct {
		name, url string
		dial      load.DialFunc
	}{
		{"a client outside the mesh, by the Service", d.serviceURL("bank", "vault"), d.node.Pod("street", "passerby").Dial},
		{"a client outside the mesh, by the Pod's IP", "http://" + vault, d.node.Pod("street", "passerby").Dial},
		{"this host", "http://" + vault, (&net.Dialer{}).DialContext},
		{"another identity (janitor)", d.serviceURL("bank", "vault"), d.node.Pod("bank", "janitor").Dial},
	} {
		r, err := load.Run(ctx, load.Config{URL: try.url, Host: "vault", Dial: try.dial, Requests: 5, NewConnections: true})
		if err != nil {
			d.fail(try.name, err)
			continue
		}
		d.line(r.Failed == r.Requests && r.Requests == 5 && r.Statuses[200] == 0, try.name, "refused %d of %d: %s", r.Failed, r.Requests, strings.Join(r.Failures(), ", "))
	}
	r, err := load.Run(ctx, load.Config{URL: d.serviceURL("bank", "vault"), Host: "vault", Dial: d.node.Pod("bank", "teller").Dial, Requests: 5, NewConnections: true})
	if err != nil {
		d.fail("the identity that the policy names (teller)", err)
		return
	}
	d.line(r.Failed == 0 && r.Backends["vault"] == 5, "the identity that the policy names (teller)", "answered %d of 5%s", r.Backends["vault"], why(r))
}
