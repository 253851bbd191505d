# SPDX-License-Identifier: Apache-2.0
"""The ways to find a deformation, by the names that every door takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A way to find the deformation.

    Attributes:
        file: in methods/.
        title: what it is called in a user's words.
        needs_model: whether a trained model decides its settings.
        needs_transform: whether it starts from a transform that was found elsewhere.
        dense: whether it finds a map that is no geodesic.
        peer: whether another program finds it, which is not installed with this one.
        sentence: what it does, to choose by.
        citation: where it was published.
        package: that it needs besides torch; "" for none.
    """

    file: str
    title: str = ""
    needs_model: bool = False
    needs_transform: bool = False
    dense: bool = False
    peer: bool = False
    sentence: str = ""
    citation: str = ""
    package: str = ""

    @property
    def fitted(self) -> bool:
        """Whether a geodesic may have to be fitted to what it finds."""
        return self.file not in ("flash", "deepflash")


_FLASH = "Zhang & Fletcher: Fast diffeomorphic image registration via Fourier-approximated Lie algebras. IJCV 127, 2019"
_DEEPFLASH = "Wang & Zhang: DeepFLASH. An efficient network for learning-based medical image registration. CVPR 2020"
_LDDMM = (
    "Beg, Miller, Trouvé & Younes: Computing large deformation metric mappings via geodesic flows of diffeomorphisms. "
    "IJCV 61, 2005"
)
_ANTS = (
    "Avants, Epstein, Grossman & Gee: Symmetric diffeomorphic image registration with cross-correlation. Medical Image "
    "Analysis 12, 2008"
)
_GREEDY = (
    "Yushkevich et al.: Fast automatic segmentation of hippocampal subfields and medial temporal lobe subregions in 3 "
    "Tesla and 7 Tesla T2-weighted MRI. Alzheimer's & Dementia 12 (7S), 2016"
)
_VOXELMORPH = (
    "Dalca, Balakrishnan, Guttag & Sabuncu: Unsupervised learning of probabilistic diffeomorphic registration for "
    "images and surfaces. Medical Image Analysis 57, 2019"
)
_QUICKSILVER = (
    "Yang, Kwitt, Styner & Niethammer: Quicksilver. Fast predictive image registration, a deep learning approach. "
    "NeuroImage 158, 2017"
)

_ICON = "Greer, Kwitt, Vialard & Niethammer: ICON. Learning regular maps through inverse consistency. ICCV 2021"
_GRADICON = (
    "Tian, Greer, Vialard, Kwitt, San José Estépar & Niethammer: GradICON. Approximate diffeomorphisms via gradient "
    "inverse consistency. CVPR 2023"
)
_CONSTRICON = (
    "Greer, Tian, Vialard, Kwitt, Bouix, San José Estépar, Rushmore & Niethammer: Inverse consistency by construction "
    "for multistep deep registration. MICCAI 2023"
)
_UNIGRADICON = (
    "Tian, Greer, Kwitt, Vialard, San José Estépar, Bouix, Rushmore & Niethammer: uniGradICON. A foundation model for "
    "medical image registration. MICCAI 2024"
)
_CARL = (
    "Greer, Tian, Vialard, Kwitt, San José Estépar & Niethammer: CARL. A framework for equivariant image registration. "
    "CVPR 2025"
)
_NEPHI = (
    "Tian et al.: NePhi. Neural deformation fields for approximately diffeomorphic medical image registration. ECCV "
    "2024"
)

METHODS = {
    "flash": Method(
        "flash",
        "Optimization, accurate (FLASH)",
        sentence="Lowers the difference of the images step by step, by a geodesic of few frequencies. Needs no model.",
        citation=_FLASH,
    ),
    "deepflash": Method(
        "deepflash",
        "Prediction by a neural network, fast (DeepFLASH)",
        needs_model=True,
        sentence="A model that was trained on images of one kind says the geodesic at once.",
        citation=_DEEPFLASH,
    ),
    "deepflash+flash": Method(
        "deepflash",
        "Prediction, then a short optimization (DeepFLASH + FLASH)",
        needs_model=True,
        sentence="A model's prediction, from which FLASH goes on for some iterations.",
        citation=_DEEPFLASH,
    ),
    "transform": Method(
        "transform",
        "A transform found elsewhere, as it is (transform)",
        needs_transform=True,
        dense=True,
        sentence="Takes a transform that was found before, from the fixed to the moving image, and measures it.",
    ),
    "transform+flash": Method(
        "transform",
        "A transform found elsewhere, then a short optimization (transform + FLASH)",
        needs_transform=True,
        sentence="Starts from a transform that was found before; FLASH goes on from it.",
        citation=_FLASH,
    ),
    "lddmm": Method(
        "lddmm",
        "Optimization without a band, slow (LDDMM)",
        dense=True,
        sentence="What FLASH does, with every frequency that the voxels hold. Slow, and takes much memory.",
        citation=_LDDMM,
    ),
    "lddmm+flash": Method(
        "lddmm",
        "Without a band, then a short optimization (LDDMM + FLASH)",
        sentence="The geodesic nearest to LDDMM's map, from which FLASH goes on.",
        citation=_LDDMM,
    ),
    "nephi": Method(
        "nephi",
        "Optimization of neural fields, slow (NePhi)",
        dense=True,
        sentence="A map and its inverse as small networks of the coordinates, fitted to the pair. Needs no model.",
        citation=_NEPHI,
    ),
    "nephi+flash": Method(
        "nephi",
        "Neural fields, then a short optimization (NePhi + FLASH)",
        sentence="The geodesic nearest to the map of NePhi, from which FLASH goes on.",
        citation=_NEPHI,
    ),
    "nephi-codes": Method(
        "learned_map",
        "Prediction of latent codes, of neural fields (NePhi-codes)",
        needs_model=True,
        dense=True,
        sentence="A network that was trained on images of one kind says codes, of which a neural field makes the map; "
        "they can be fitted to the pair.",
        citation=_NEPHI,
    ),
    "nephi-codes+flash": Method(
        "learned_map",
        "Prediction of latent codes, then a short optimization (NePhi-codes + FLASH)",
        needs_model=True,
        sentence="The geodesic nearest to the map of NePhi's codes, from which FLASH goes on.",
        citation=_NEPHI,
    ),
    "ants": Method(
        "peers",
        "SyN of another program (ANTs)",
        dense=True,
        peer=True,
        sentence="Symmetric normalization by ANTs, which has to be installed in a Python of its own.",
        citation=_ANTS,
    ),
    "ants+flash": Method(
        "peers",
        "SyN of another program, then a short optimization (ANTs + FLASH)",
        peer=True,
        sentence="The geodesic nearest to the map of ANTs, from which FLASH goes on.",
        citation=_ANTS,
    ),
    "greedy": Method(
        "peers",
        "Greedy diffeomorphic registration of another program (Greedy)",
        dense=True,
        peer=True,
        sentence="Greedy registration by Greedy, which has to be installed in a Python of its own.",
        citation=_GREEDY,
    ),
    "greedy+flash": Method(
        "peers",
        "Another program's, then a short optimization (Greedy + FLASH)",
        peer=True,
        sentence="The geodesic nearest to the map of Greedy, from which FLASH goes on.",
        citation=_GREEDY,
    ),
    "voxelmorph": Method(
        "learned_map",
        "Prediction by a U-Net, of a stationary velocity (VoxelMorph)",
        needs_model=True,
        dense=True,
        sentence="A network that was trained on images of one kind says the map at once. Needs the package MONAI.",
        citation=_VOXELMORPH,
        package="monai",
    ),
    "voxelmorph+flash": Method(
        "learned_map",
        "A U-Net's prediction, then a short optimization (VoxelMorph + FLASH)",
        needs_model=True,
        sentence="The geodesic nearest to VoxelMorph's map, from which FLASH goes on. Needs the package MONAI.",
        citation=_VOXELMORPH,
        package="monai",
    ),
    "quicksilver": Method(
        "learned_map",
        "Prediction of LDDMM's momentum, patch by patch (Quicksilver)",
        needs_model=True,
        dense=True,
        sentence="A network that learned from LDDMM says where its geodesic starts.",
        citation=_QUICKSILVER,
    ),
    "quicksilver+flash": Method(
        "learned_map",
        "A predicted momentum, then a short optimization (Quicksilver + FLASH)",
        needs_model=True,
        sentence="The geodesic nearest to Quicksilver's map, from which FLASH goes on.",
        citation=_QUICKSILVER,
    ),
    "icon": Method(
        "learned_map",
        "Prediction by networks in steps, inverse consistent (ICON)",
        needs_model=True,
        dense=True,
        sentence="Networks that were trained on images of one kind say the map and its inverse at once. "
        "Needs the package icon-registration.",
        citation=_ICON,
        package="icon_registration",
    ),
    "icon+flash": Method(
        "learned_map",
        "Prediction in steps, then a short optimization (ICON + FLASH)",
        needs_model=True,
        sentence="The geodesic nearest to ICON's map, from which FLASH goes on. Needs the package icon-registration.",
        citation=_ICON,
        package="icon_registration",
    ),
    "gradicon": Method(
        "learned_map",
        "Prediction by networks in steps, of consistent gradients (GradICON)",
        needs_model=True,
        dense=True,
        sentence="As ICON, but that the gradients of both maps are inverse to each other is what makes them regular. "
        "Needs the package icon-registration.",
        citation=_GRADICON,
        package="icon_registration",
    ),
    "gradicon+flash": Method(
        "learned_map",
        "Prediction in steps, then a short optimization (GradICON + FLASH)",
        needs_model=True,
        sentence="The geodesic nearest to GradICON's map, from which FLASH goes on. Needs the package "
        "icon-registration.",
        citation=_GRADICON,
        package="icon_registration",
    ),
    "constricon": Method(
        "learned_map",
        "Prediction by networks in steps, inverse by construction (ConstrICON)",
        needs_model=True,
        dense=True,
        sentence="As ICON, but exponentials make the maps inverse to each other, whatever the networks have learned. "
        "Needs the package icon-registration.",
        citation=_CONSTRICON,
        package="icon_registration",
    ),
    "constricon+flash": Method(
        "learned_map",
        "Inverse by construction, then a short optimization (ConstrICON + FLASH)",
        needs_model=True,
        sentence="The geodesic nearest to ConstrICON's map, from which FLASH goes on. Needs the package "
        "icon-registration.",
        citation=_CONSTRICON,
        package="icon_registration",
    ),
    "unigradicon": Method(
        "learned_map",
        "A foundation model for all of the body (uniGradICON)",
        needs_model=True,
        dense=True,
        sentence="GradICON's networks, trained on images of many regions, on a grid of 175 voxels along each axis. "
        "Needs its published weights and the package icon-registration.",
        citation=_UNIGRADICON,
        package="icon_registration",
    ),
    "unigradicon+flash": Method(
        "learned_map",
        "A foundation model, then a short optimization (uniGradICON + FLASH)",
        needs_model=True,
        sentence="The geodesic nearest to uniGradICON's map, from which FLASH goes on. Needs its published weights and "
        "the package icon-registration.",
        citation=_UNIGRADICON,
        package="icon_registration",
    ),
    "carl": Method(
        "learned_map",
        "Prediction by attention to coordinates, then networks in steps (CARL)",
        needs_model=True,
        dense=True,
        sentence="As GradICON, but its first step finds what looks alike wherever it lies, so that images that moved "
        "apart are no harder. Needs the package icon-registration.",
        citation=_CARL,
        package="icon_registration",
    ),
    "carl+flash": Method(
        "learned_map",
        "Attention to coordinates, then a short optimization (CARL + FLASH)",
        needs_model=True,
        sentence="The geodesic nearest to CARL's map, from which FLASH goes on. Needs the package icon-registration.",
        citation=_CARL,
        package="icon_registration",
    ),
    "unicarl": Method(
        "learned_map",
        "A foundation model with attention to coordinates (uniCARL)",
        needs_model=True,
        dense=True,
        sentence="CARL's networks, trained on images of many regions, on a grid of 160 voxels along each axis. Needs "
        "its published weights and the package icon-registration.",
        citation=_CARL,
        package="icon_registration",
    ),
    "unicarl+flash": Method(
        "learned_map",
        "A foundation model with attention, then a short optimization (uniCARL + FLASH)",
        needs_model=True,
        sentence="The geodesic nearest to uniCARL's map, from which FLASH goes on. Needs its published weights and the "
        "package icon-registration.",
        citation=_CARL,
        package="icon_registration",
    ),
}
