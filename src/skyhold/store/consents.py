"""Where the user of this machine agrees to send credentials on behalf of one store (`skyhold.buckets.consent`)."""

from __future__ import annotations

from collections.abc import Iterable

from skyhold.buckets.consent import Destination, destination_of, is_allowed
from skyhold.buckets.location import BucketLocation
from skyhold.consensus.etcd_credentials import has_credentials
from skyhold.consensus.etcd_location import EtcdLocation
from skyhold.store.settings import Settings
from skyhold.store.state import StoreState


class Consents:
    """What was agreed to before, and what is agreed to now."""

    def __init__(self, settings: Settings, state: StoreState) -> None:
        self._settings = settings
        self._state = state
        self._given = state.consents()

    def reach(self, location: BucketLocation) -> BucketLocation:
        """A bucket as this machine reaches it. It is not `named` where the user of this machine has not agreed to send
        it credentials."""
        return self._settings.locate(location, self._given)

    def reach_etcd(self, cluster: str, *, typed: bool = False) -> EtcdLocation:
        """As `reach`, of an etcd cluster, which its user may just have `typed`."""
        return self._settings.locate_etcd(cluster, self._given, typed=typed)

    def agree_to_typed(self, locations: Iterable[BucketLocation], cluster: str = "", *, durably: bool = True) -> None:
        """A user who types the URL of a bucket, or of an etcd cluster, agrees to it; `durably`: also for later
        commands."""
        reached = [self.reach(location) for location in locations]
        given = {destination_of(location) for location in reached if location.named and location.is_cloud}
        if cluster and (etcd := self.reach_etcd(cluster, typed=True)).named:
            given.add(etcd.destination)
        if durably:
            self._state.consent(given)
        self._given |= given

    def missing(self, locations: Iterable[BucketLocation], cluster: str = "") -> list[tuple[str, Destination]]:
        """Those of these buckets, and of the etcd cluster, to which no credentials may be sent yet, by name."""
        reached = [self.reach(location) for location in locations]
        found = [(location.name, destination_of(location)) for location in reached if not is_allowed(location)]
        if cluster:
            etcd = self.reach_etcd(cluster)
            if not etcd.named and has_credentials(etcd.credentials):
                found.append(("etcd", etcd.destination))
        return found
